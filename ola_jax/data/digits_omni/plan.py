"""Plans one split of the dataset: its media files with their ground truth, and its records."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ola_jax.data.digits_omni.drawing import COLOURS
from ola_jax.data.digits_omni.facts import TextQuestion
from ola_jax.data.digits_omni.media import Clip, Picture, Speech
from ola_jax.data.digits_omni.questions import AUDIO, IMAGE, SPOKEN, TWO_IMAGES, VIDEO, VIDEO_AUDIO
from ola_jax.data.digits_omni.questions import both, choose, parity
from ola_jax.data.digits_omni.speech import Recording
from ola_jax.typing import Array, Int

Record = dict[str, Any]
SPOKEN_PROMPT = "<image>\nUser's question in speech: <speech>"


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
    labels: Int[Array, "n"],
    sources: Int[Array, "m"],
    pack: Sequence[Recording],
    facts: Sequence[TextQuestion],
    rng: np.random.Generator,
) -> Plan:
    """Plans `counts[task]` records of each task.

    `labels` are the classes of all digit images; `sources` the indices of those that this split may
    use; `pack` and `facts` what it may say and ask. Media are shared by the tasks where that saves files:
    two-image and spoken-question records reuse the pictures, video-and-audio records the spoken digits.
    """
    seeds = (int(seed) for seed in iter(lambda: rng.integers(2**32), None))
    order = _turns(sources, rng)
    hues = _turns(list(COLOURS), rng)

    def picture(i: int) -> Picture:
        source = int(next(order))
        file = f"{split}/images/{i:05}.png"
        return Picture(file, int(labels[source]), source, str(next(hues)), (next(seeds),))

    def speech(folder: str, i: int, recording: Recording) -> Speech:
        said = recording.meaning, recording.text, recording.voice, recording.file
        return Speech(f"{split}/{folder}/{i:05}.flac", *said, (next(seeds),))

    def clip(i: int, sound: Speech | None) -> Clip:
        pair = int(next(order)), int(next(order))
        digits = int(labels[pair[0]]), int(labels[pair[1]])
        return Clip(f"{split}/videos/{i:05}.mp4", digits, pair, str(next(hues)), sound, (next(seeds),))

    spoken = {kind: _turns([r for r in pack if r.kind == kind], rng) for kind in ("digit", "question")}
    pictures = [picture(i) for i in range(counts["image"])]
    digits = [speech("digits", i, next(spoken["digit"])) for i in range(counts["audio"])]
    questions = [speech("questions", i, next(spoken["question"])) for i in range(max(counts["image_speech"] // 2, 3))]
    silent = [clip(i, None) for i in range(counts["video"])]
    heard = _turns(digits, rng)
    loud = [clip(len(silent) + i, next(heard)) for i in range(counts["video_audio"])]
    any_picture, any_fact = _turns(pictures, rng), _turns(facts, rng)
    records = {
        "text": [text_record(next(any_fact)) for _ in range(counts["text"])],
        "image": [image_record(p, rng) for p in pictures],
        "two_images": [
            two_images_record(next(any_picture), next(any_picture), rng) for _ in range(counts["two_images"])
        ],
        "video": [video_record(c, rng) for c in silent],
        "audio": [audio_record(d, rng) for d in digits],
        "image_speech": [
            image_speech_record(next(any_picture), questions, rng) for _ in range(counts["image_speech"])
        ],
        "video_audio": [video_audio_record(c, rng) for c in loud],
    }
    for task, of_task in records.items():
        records[task] = [{"id": f"{split}-{task}-{i:05}"} | record for i, record in enumerate(of_task)]
    return Plan(pictures, digits, questions, silent + loud, records)


def _turns(items: Sequence[Any], rng: np.random.Generator) -> Iterator[Any]:
    """The items for ever, each once before any comes again, every time in another order."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]


def _conversation(question: str, answer: int | str) -> Record:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": str(answer)}]}


def text_record(fact: TextQuestion) -> Record:
    """Text only."""
    return _conversation(fact.text, fact.answer)


def _about(picture: Picture, topic: str) -> int | str:
    return {"digit": picture.digit, "colour": picture.colour, "parity": parity(picture.digit)}[topic]


def image_record(picture: Picture, rng: np.random.Generator) -> Record:
    """A written question about one image."""
    topic, wording = choose(IMAGE, rng)
    return {"image": picture.file} | _conversation(f"<image>\n{wording}", _about(picture, topic))


def two_images_record(first: Picture, second: Picture, rng: np.random.Generator) -> Record:
    """A written question about two images, answered in their order."""
    topic, wording = choose(TWO_IMAGES, rng)
    answer = both(first.digit, second.digit) if topic == "digits" else both(first.colour, second.colour)
    return {"image": [first.file, second.file]} | _conversation(f"<image>\n<image>\n{wording}", answer)


def video_record(clip: Clip, rng: np.random.Generator) -> Record:
    """A written question about a video."""
    topic, wording = choose(VIDEO, rng)
    answer = {"digits": both(*clip.digits), "first": clip.digits[0], "last": clip.digits[1]}[topic]
    return {"video": clip.file} | _conversation(f"<image>\n{wording}", answer)


def audio_record(speech: Speech, rng: np.random.Generator) -> Record:
    """A written question about a spoken digit."""
    topic, wording = choose(AUDIO, rng)
    digit = int(speech.meaning)
    answer = digit if topic == "digit" else parity(digit)
    return {"audio": speech.file} | _conversation(f"<speech>\n{wording}", answer)


def image_speech_record(picture: Picture, questions: Sequence[Speech], rng: np.random.Generator) -> Record:
    """A spoken question about an image; the human's text is its transcript, which `text_q` replaces."""
    topic, _ = choose(SPOKEN, rng)
    asked = [q for q in questions if q.meaning == topic]
    speech = asked[rng.integers(len(asked))]
    media = {"image": picture.file, "audio_q": speech.file, "text_q": SPOKEN_PROMPT}
    return media | _conversation(f"<image>\n{speech.text}", _about(picture, topic))


def video_audio_record(clip: Clip, rng: np.random.Generator) -> Record:
    """A written question about what a video shows and what is heard with it."""
    topic, wording = choose(VIDEO_AUDIO, rng)
    answer = both(clip.digits[0 if topic == "first" else 1], int(clip.sound.meaning))
    return {"video": clip.file, "audio": clip.sound.file} | _conversation(f"<speech><image>\n{wording}", answer)
