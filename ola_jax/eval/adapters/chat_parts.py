"""Chats of other harnesses, made of texts and media, as questions to the engine."""

import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ola_jax.errors import OlaError, quote, require
from ola_jax.eval.answers import Answer
from ola_jax.eval.asking import Asking, ask_all
from ola_jax.eval.items import Clip, EmbeddedMedia, Item, MediaSlot, Prompt, Source
from ola_jax.generate.engine import Engine, EngineConfig

Kind = Literal["text", "image", "video", "audio"]


@dataclasses.dataclass(frozen=True)
class ChatPart:
    """A text, or media: a path, a picture of Pillow, or audio with its sample rate."""

    kind: Kind
    value: Any


def to_item(name: str, parts: Sequence[ChatPart]) -> Item:
    """The item of a chat. Images stay where they are in the text; a video or audio comes first.

    Raises OlaError for more than one video, or images beside a video, which the model cannot be asked about.
    """
    images = [_image(part.value, name) for part in parts if part.kind == "image"]
    videos = [part.value for part in parts if part.kind == "video"]
    audio = tuple(_audio(part.value, name) for part in parts if part.kind == "audio")
    if len(videos) > 1 or (videos and images):
        raise OlaError(
            f"question {name}: {len(videos)} videos and {len(images)} images; the model takes one video, or "
            "images"
        )
    prompt: list[str | MediaSlot] = [MediaSlot()] if videos or audio else []
    shown = 0
    for part in parts:
        if part.kind == "text":
            prompt.append(str(part.value))
        elif part.kind == "image" and prompt[:1] != [MediaSlot()]:
            prompt.append(MediaSlot(shown))
            shown += 1
    video = _video(videos[0], name) if videos else None
    fields = {"prompt": tuple(prompt)}
    return Item(name, "", (), images=tuple(images), video=video, audio=audio, fields=fields)


def load_engine(
    checkpoint: str,
    *,
    slots: int,
    length: int | None,
    dtype: Literal["float32", "bfloat16"] | None,
    tensor: int,
) -> Engine:
    """A started engine for a checkpoint; `length`: tokens of a prompt and its answer."""
    from ola_jax.checkpoint import load_configs

    longest = length or load_configs(checkpoint)[1].max_length + 1024
    config = EngineConfig(
        slots=slots, length=longest, queue=4 * slots, kept_features=0, dtype=dtype, tensor=tensor
    )
    engine = Engine.from_pretrained(checkpoint, config)
    engine.start()
    return engine


def ask_chats(engine: Engine, items: Sequence[Item], asking: Asking) -> list[Answer]:
    """The answers to the items, in their order. Raises OlaError for the first that could not be asked."""
    answers: dict[str, Answer] = {}

    def receive(answer: Answer) -> None:
        if answer.error is not None:
            raise OlaError(f"question {answer.id}: {answer.error}")
        answers[answer.id] = answer

    ask_all(engine, items, asking, receive)
    return [answers[item.id] for item in items]


def wording(item: Item) -> Prompt:
    """The prompt that `to_item` made."""
    prompt: Prompt = item.fields["prompt"]
    return prompt


def _video(value: Any, name: str) -> pathlib.Path | Clip:
    """A path, or lmms-eval's {path or url, video_start, video_end} in seconds."""
    path = value.get("path") or value.get("url") if isinstance(value, dict) else value
    if not isinstance(path, str | pathlib.Path):
        raise OlaError(f"question {name}: expected the path of a video, found {quote(value)}")
    if isinstance(value, dict):
        return Clip(pathlib.Path(path), value.get("video_start"), value.get("video_end"))
    return pathlib.Path(path)


def _image(value: Any, name: str) -> Source:
    if isinstance(value, str | pathlib.Path):
        return pathlib.Path(value)
    if not hasattr(value, "save"):
        raise OlaError(f"question {name}: expected an image, found {quote(value)}")

    def read() -> bytes:
        stream = io.BytesIO()
        value.convert("RGB").save(stream, "PNG")
        return stream.getvalue()

    return EmbeddedMedia(f"an image of question {name}", read)


def _audio(value: Any, name: str) -> Source:
    """A path, Hugging Face's {bytes, path} or {array, sampling_rate}, or its decoder of newer versions."""
    if isinstance(value, str | pathlib.Path):
        return pathlib.Path(value)
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        data = value["bytes"]
        return EmbeddedMedia(f"audio of question {name}", lambda: data)
    if hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        waveform, rate = np.asarray(samples.data).T, int(samples.sample_rate)
    elif isinstance(value, dict) and value.get("array") is not None:
        waveform, rate = np.asarray(value["array"]), int(value["sampling_rate"])
    else:
        raise OlaError(f"question {name}: expected audio, found {quote(value)}")

    def read() -> bytes:
        require("train", "soundfile")
        import soundfile

        stream = io.BytesIO()
        soundfile.write(stream, waveform.astype(np.float32), rate, format="WAV", subtype="FLOAT")
        return stream.getvalue()

    return EmbeddedMedia(f"audio of question {name}", read)
