"""Plans one split of the dataset: its media files with their ground truth, and its records."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from examples.digits_omni.drawing import COLOURS
from examples.digits_omni.facts import TextQuestion
from examples.digits_omni.media import Clip, Picture, Speech
from examples.digits_omni.records import RECORDS, Record, described_record
from examples.digits_omni.speech import Recording
from ola_jax.typing import Array, Int


@dataclasses.dataclass(frozen=True)
class Plan:
    """One split: what to write."""

    pictures: list[Picture]
    digits: list[Speech]
    questions: list[Speech]
    clips: list[Clip]
    records: dict[str, list[Record]]  # by task


def plan_split(
    split: str,
    counts: dict[str, int],
    files: dict[str, int],
    labels: Int[Array, "n"],
    sources: Int[Array, "m"],
    pack: Sequence[Recording],
    facts: Sequence[TextQuestion],
    described: int,
    rng: np.random.Generator,
) -> Plan:
    """Plans `counts[task]` records of each task, on `files[task]` media files of its own.

    `labels` are the classes of all digit images; `sources` the indices of those that this split may
    use; `pack` and `facts` what it may say and ask. Records take files in turn. The image task's pictures
    also serve the two-image and spoken-question records, the audio task's spoken digits also the
    video-and-audio records. `described` text-only records come on top, of all tasks in turn, with
    words in the place of the media.
    """
    images, colours = _turns(sources.tolist(), rng), _turns(list(COLOURS), rng)
    spoken = {kind: _turns([r for r in pack if r.kind == kind], rng) for kind in ("digit", "question")}

    def seed() -> int:
        return int(rng.integers(2**32))

    def picture(i: int) -> Picture:
        source = next(images)
        return Picture(f"{split}/images/{i:05}.png", int(labels[source]), source, next(colours), seed())

    def speech(kind: str, i: int) -> Speech:
        said = next(spoken[kind])
        file = f"{split}/{kind}s/{i:05}.flac"
        return Speech(file, said.meaning, said.text, said.voice, said.file, seed())

    def clip(i: int, sound: Speech | None) -> Clip:
        shown = next(images), next(images)
        digits = int(labels[shown[0]]), int(labels[shown[1]])
        return Clip(f"{split}/videos/{i:05}.mp4", digits, shown, next(colours), sound, seed())

    pictures = [picture(i) for i in range(files["image"])]
    digits = [speech("digit", i) for i in range(files["audio"])]
    questions = [speech("question", i) for i in range(files["image_speech"])]
    silent = [clip(i, None) for i in range(files["video"])]
    sounds = _turns(digits, rng)
    heard = [clip(len(silent) + i, next(sounds)) for i in range(files["video_audio"])]
    ingredients = {
        "text": (facts,),
        "image": (pictures,),
        "two_images": (pictures, pictures),
        "video": (silent,),
        "audio": (digits,),
        "image_speech": (pictures, questions),
        "video_audio": (heard,),
        "captions": (pictures,),
        "transcripts": (digits + questions,),
    }
    records = {}
    for task, count in counts.items():
        turns = [_turns(items, rng) for items in ingredients[task]]
        made = [RECORDS[task](*(next(turn) for turn in turns), rng) for _ in range(count)]
        records[task] = [{"id": f"{split}-{task}-{i:05}"} | record for i, record in enumerate(made)]
    if described:
        told = [task for task in RECORDS if task != "text"]
        turns = {task: [_turns(items, rng) for items in ingredients[task]] for task in told}
        draw = lambda task: described_record(task, tuple(next(turn) for turn in turns[task]), rng)
        made = [draw(told[i % len(told)]) for i in range(described)]
        records["described"] = [{"id": f"{split}-described-{i:05}"} | r for i, r in enumerate(made)]
    return Plan(pictures, digits, questions, silent + heard, records)


def _turns(items: Sequence[Any], rng: np.random.Generator) -> Iterator[Any]:
    """The items for ever, each once before any comes again, every time in another order."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]
