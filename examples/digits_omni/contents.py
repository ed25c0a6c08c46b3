"""The contents of one split of the dataset: its media files with their ground truth, and its records."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from examples.digits_omni.drawing import COLOURS
from examples.digits_omni.facts import TextQuestion
from examples.digits_omni.media_files import Clip, Picture, Speech
from examples.digits_omni.speech import Recording
from examples.digits_omni.task_records import RECORDS, Record, described_record
from ola_jax.typing import HostArray, Int

Item = TypeVar("Item")

# Turns of a recording for each turn of one of espeak-ng's, which has the most voices and sounds least human.
TURNS = {"espeak-ng": 1, "flite": 3, "hibari": 4, "festival": 1}


@dataclasses.dataclass(frozen=True)
class SplitContents:
    """The media files and records of one split."""

    pictures: list[Picture]
    digits: list[Speech]
    questions: list[Speech]
    clips: list[Clip]
    records: dict[str, list[Record]]  # by task


def choose_contents(
    split: str,
    *,
    counts: dict[str, int],
    files: dict[str, int],
    labels: Int[HostArray, "n"],
    sources: Int[HostArray, "m"],
    pack: Sequence[Recording],
    facts: Sequence[TextQuestion],
    described: int,
    rng: np.random.Generator,
) -> SplitContents:
    """Chooses `counts[task]` records of each task, on `files[task]` media files of its own.

    `labels` are the classes of all digit images, `sources` the indices of those that this split may use,
    `pack` and `facts` its recordings (with those of the split "other") and text-only questions. Records use
    the files in turn. The pictures of the image task are also used by the two-image and spoken-question
    records, the spoken digits of the audio task also by the video-and-audio records. In addition there are
    `described` text-only records, of all tasks in turn, with words instead of media.
    """
    images, colours = _turns(sources.tolist(), rng), _turns(list(COLOURS), rng)
    spoken = {
        (where, kind): _turns(
            [r for r in pack if (r.split, r.kind) == (where, kind) for _ in range(TURNS[r.synthesizer])], rng
        )
        for where in (split, "other")
        for kind in ("digit", "question")
    }

    def seed() -> int:
        return int(rng.integers(2**32))

    def picture(i: int) -> Picture:
        source = next(images)
        return Picture(f"{split}/images/{i:05}.png", int(labels[source]), source, next(colours), seed())

    def speech(kind: str, i: int, where: str = split) -> Speech:
        recording = next(spoken[where, kind])
        file = f"{split}/{kind}s/{i:05}.flac" if where == split else f"{split}/{where}/{i:05}.flac"
        augmented = split == "train"
        return Speech(
            file, recording.meaning, recording.text, recording.voice, recording.file, seed(), augmented
        )

    def clip(i: int, sound: Speech | None) -> Clip:
        shown = next(images), next(images)
        digits = int(labels[shown[0]]), int(labels[shown[1]])
        return Clip(f"{split}/videos/{i:05}.mp4", digits, shown, next(colours), sound, seed())

    pictures = [picture(i) for i in range(files["image"])]
    digits = [speech("digit", i) for i in range(files["audio"])]
    questions = [speech("question", i) for i in range(files["image_speech"])]
    other = [speech("digit", i, "other") for i in range(files["audio_other"])]
    silent = [clip(i, None) for i in range(files["video"])]
    tracks = _turns(digits, rng)
    with_sound = [clip(len(silent) + i, next(tracks)) for i in range(files["video_audio"])]
    ingredients: dict[str, tuple[Sequence[Any], ...]] = {
        "text": (facts,),
        "image": (pictures,),
        "two_images": (pictures, pictures),
        "video": (silent,),
        "audio": (digits,),
        "image_speech": (pictures, questions),
        "video_audio": (with_sound,),
        "audio_other": (other,),
        "captions": (pictures,),
        "transcripts": (digits + questions,),
    }
    records = {}
    for task, count in counts.items():
        if not count:
            continue
        turns = [_turns(items, rng) for items in ingredients[task]]
        made = [RECORDS[task](*(next(turn) for turn in turns), rng) for _ in range(count)]
        records[task] = [{"id": f"{split}-{task}-{i:05}"} | record for i, record in enumerate(made)]
    if described:
        tasks = [task for task in RECORDS if task not in ("text", "audio_other")]
        task_turns = {task: [_turns(items, rng) for items in ingredients[task]] for task in tasks}
        draw = lambda task: described_record(task, tuple(next(turn) for turn in task_turns[task]), rng)
        made = [draw(tasks[i % len(tasks)]) for i in range(described)]
        records["described"] = [{"id": f"{split}-described-{i:05}"} | r for i, r in enumerate(made)]
    return SplitContents(pictures, digits + other, questions, silent + with_sound, records)


def _turns(items: Sequence[Item], rng: np.random.Generator) -> Iterator[Item]:
    """The items in an endless sequence: all of them in random order, then all in another order, and so on."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]
