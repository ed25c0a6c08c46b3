"""Questions and answers of a conversation as one record, each medium where it was asked about."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ola_jax.data.chat import AUDIO
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError, quote
from ola_jax.generate.requests import SEEDS

# What messages call the parts of a question: the parameters of `Assistant.ask`.
PARAMETERS = {name: name for name in ("text", "images", "video", "audio", "max_new_tokens", "seed")}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked in one turn."""

    text: str = ""
    images: tuple[str, ...] = ()
    video: str | None = None
    audio: str | None = None
    sound: bool = True  # use the video's own sound track, if it has one

    def record(self) -> dict[str, Any]:
        """The record that asks this alone."""
        return prompt_record(
            self.text, images=self.images, video=self.video, audio=self.audio, sound=self.sound
        )


def check_question(
    question: Question, max_new_tokens: int, seed: int, names: Mapping[str, str] = PARAMETERS
) -> None:
    """Raises OlaError for a question that cannot be asked; `names` are what its parts are called."""
    text, images, video, audio = (names[name] for name in ("text", "images", "video", "audio"))
    if not (question.text.strip() or question.images or question.video or question.audio):
        raise OlaError(f"the prompt is empty: give {text}, {images}, {video} or {audio}")
    if question.video and question.images:
        raise OlaError(f"{video} and {images} exclude each other: ask about one of them")
    if question.images and question.audio and question.text:
        raise OlaError(f"{audio} beside {images} is the question: leave out {text}, or leave out {audio}")
    if max_new_tokens < 1:
        raise OlaError(f"{names['max_new_tokens']} is {max_new_tokens}; it must be 1 or more")
    if not 0 <= seed < SEEDS:
        raise OlaError(f"{names['seed']} is {seed}; it must be from 0 to {SEEDS - 1}")
    try:
        question.text.encode()
    except UnicodeEncodeError as error:
        raise OlaError(f"{text}: not valid UTF-8 at character {error.start + 1}") from error


def conversation_record(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """The record that asks the last of the questions, after the others with their answers.

    Raises OlaError where the questions together have more media than a record can hold: images or one video,
    and one sound.
    """
    media: dict[str, Any] = {}
    messages = []
    for number, question in enumerate(questions):
        record = question.record()
        (message,) = record.pop("conversations")
        _check_room(questions[:number], question)
        record["image"] = media.get("image", []) + record.get("image", [])
        media |= {key: value for key, value in record.items() if value}
        messages.append(message)
        if number < len(answers):
            messages.append({"from": "gpt", "value": answers[number]})
    return media | {"conversations": messages}


def _check_room(before: Sequence[Question], question: Question) -> None:
    new = "start a new chat for another"
    for earlier in before:
        if earlier.video and question.video:
            raise OlaError(f"video: a chat has one video, and this one has {quote(earlier.video)}; {new}")
        if earlier.video and question.images:
            raise OlaError(f"images: a chat with a video ({quote(earlier.video)}) has no images; {new}")
        if earlier.images and question.video:
            raise OlaError(f"video: a chat with images ({quote(earlier.images[0])}) has no video; {new}")
        if _sound(earlier) and _sound(question):
            which = "audio" if question.audio else "video"
            hint = new if earlier.audio and question.audio else "ask about the video with sound=False"
            raise OlaError(f"{which}: a chat has one sound, and this one has {_sound(earlier)}; {hint}")


def _sound(question: Question) -> str:
    """What the question lets the model hear, or ""."""
    if AUDIO not in question.record()["conversations"][0]["value"].removesuffix(question.text):
        return ""
    return quote(question.audio) if question.audio else f"that of {quote(question.video)}"
