"""Questions of a benchmark as its published files hold them, and prompts that ask them."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ola_jax.data.chat import IMAGE
from ola_jax.data.record_files import JsonRecord
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError

PromptName = Literal["vlmevalkit", "lmms_eval", "ola"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddedMedia:
    """Encoded media inside a table of questions, read when they are asked about."""

    name: str  # for messages: the file, the row and the column
    read: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A part of a video, in seconds; a folder of frames has `frames_per_second`."""

    path: pathlib.Path
    start: float | None = None
    end: float | None = None
    frames_per_second: float | None = None


Source = pathlib.Path | EmbeddedMedia


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A question and its answer. Choices are answered with a letter; `answers` is empty if it is secret."""

    id: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    hint: str = ""
    images: tuple[Source, ...] = ()
    video: pathlib.Path | Clip | None = None
    audio: tuple[Source, ...] = ()  # joined in this order: the model takes one
    category: str = ""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)  # such as {"video": "abc"}
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further columns

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the options."""
        return tuple(LETTERS[: len(self.options)])

    @property
    def choices(self) -> dict[str, str]:
        """The text of each letter."""
        return dict(zip(self.letters, self.options, strict=True))


@dataclasses.dataclass(frozen=True)
class MediaSlot:
    """The position of media in a prompt: of all that the item has, or of one of its images, from 0."""

    image: int | None = None


Prompt = tuple[str | MediaSlot, ...]
Wording = Callable[[Item], Prompt]


def after_media(text: str) -> Prompt:
    """All media, then the text."""
    return (MediaSlot(), text)


@dataclasses.dataclass(frozen=True)
class WrittenMedia:
    """Paths of an item's media; `video` is a file, or the frames of a clip."""

    images: tuple[str, ...] = ()
    video: str | list[str] | None = None
    audio: tuple[str, ...] = ()


def write_embedded(source: Source, folder: pathlib.Path) -> str:
    """The path of media; embedded ones are written below `folder`, under a digest of their bytes."""
    if isinstance(source, pathlib.Path):
        return str(source)
    data = source.read()
    if not data:
        raise OlaError(f"{source.name}: the media are empty")
    file = folder / hashlib.sha256(data).hexdigest()[:32]
    part = file.with_name(f"{file.name}.{os.getpid()}.{id(source)}.part")
    part.write_bytes(data)
    part.replace(file)
    return str(file)


def to_record(item: Item, prompt: Prompt, media: WrittenMedia, *, sound: bool) -> JsonRecord:
    """The record, as Ola's data have it, that asks an item. `sound`: with the video's own sound track."""
    text, images = "", []
    for part in prompt:
        if isinstance(part, str):
            text += part
        elif part.image is not None:
            if not part.image < len(media.images):
                raise OlaError(
                    f"question {item.id}: it refers to image {part.image + 1} of {len(media.images)}"
                )
            images.append(media.images[part.image])
            text += IMAGE + "\n"
        else:
            images += media.images
            text += _front(media, sound)
    record: JsonRecord = {"id": item.id}
    if images:
        record["image"] = images
    if media.video is not None:
        record["video"] = media.video
    if media.audio:
        one = len(media.audio) == 1
        record["audio_q" if images else "audio"] = (
            media.audio[0] if one else {"img_path": list(media.audio)}  # several files in a row
        )
    return record | {"conversations": [{"from": "human", "value": text}]}


def _front(media: WrittenMedia, sound: bool) -> str:
    """The marks of all media, as the original's inference script places them."""
    asked = prompt_record(
        images=media.images,
        video=None if media.video is None else "video",
        audio="audio" if media.audio else None,
        sound=sound and isinstance(media.video, str),
    )
    text = asked["conversations"][0]["value"]
    assert isinstance(text, str)
    return text
