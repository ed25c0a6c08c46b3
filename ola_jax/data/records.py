"""Ola's JSON records: reading them, and checking one record into typed fields."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ola_jax.data.chat import AUDIO, IMAGE, ROLES, Turn, media_first, newline_after_audio
from ola_jax.errors import OlaError

MediaRef = str | dict[str, Any]  # a path, or a place in a patch file


@dataclasses.dataclass(frozen=True)
class Record:
    """One record after checking; messages are as they will be tokenised."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[MediaRef, ...] = ()
    video: MediaRef | list[MediaRef] | None = None
    audio: MediaRef | None = None
    is_prompt: bool = False  # ends with a human turn: to be continued by the assistant

    def without_audio(self) -> "Record":
        """The same record with its audio placeholders removed."""
        turns = tuple((who, text.replace(AUDIO, "")) for who, text in self.turns)
        return dataclasses.replace(self, turns=turns, audio=None)


def read_records(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """All records of a JSON file (an array) or a JSONL file (one object a line)."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        if str(path).endswith(".jsonl"):
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text)
    except OSError as error:
        raise OlaError(
            f"{path}: cannot be read ({error.strerror}); expected a JSON file of records"
        ) from error
    except ValueError as error:
        raise OlaError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(records, list):
        raise OlaError(f"{path}: expected a JSON array of records, found {type(records).__name__}")
    return records


def parse_record(record: Any) -> Record:
    """Check a JSON record. Raises OlaError naming the key that is wrong (the caller adds the id).

    Kinds: text; `image` (one, or a list); `video`; `audio`; `video` + `audio`; spoken questions,
    `audio_q` with `text_q` replacing the first message, with or without `image`.
    """
    if not isinstance(record, dict):
        raise OlaError(f"expected a JSON object, found {type(record).__name__}")
    images, video = record.get("image"), record.get("video")
    images = tuple(images) if isinstance(images, list) else () if images is None else (images,)
    audio_key = "audio_q" if record.get("audio_q") is not None else "audio"
    audio = record.get(audio_key)
    if record.get("audio") is not None and audio_key == "audio_q":
        raise OlaError("both 'audio' and 'audio_q' are given; expected one of them")
    if images and video is not None:
        raise OlaError("both 'image' and 'video' are given; expected one of them")
    frames = video if isinstance(video, list) else [] if video is None else [video]
    if video is not None and not frames:
        raise OlaError("'video': the list of frames is empty")
    for key, refs in (("image", images), ("video", frames), (audio_key, () if audio is None else (audio,))):
        for ref in refs:
            if not isinstance(ref, str | dict):
                raise OlaError(f"{key!r}: expected a path or a patch object, found {ref!r}")
    turns = _turns(record, record.get("text_q") if audio_key == "audio_q" else None)
    is_prompt = turns[-1][0] == "human"
    has_media = bool(images) or video is not None or audio is not None
    if audio_key == "audio_q":
        turns = [(who, newline_after_audio(text)) for who, text in turns]
    elif has_media and not is_prompt:
        turns = [(who, media_first(text)) for who, text in turns]
    if is_prompt and not has_media and not turns[-1][1].strip():
        raise OlaError("the prompt is empty: expected text, an image, a video or audio")
    name = "" if record.get("id") is None else str(record["id"])
    return Record(name, tuple(turns), images, video, audio, is_prompt)


def prompt_record(
    text: str = "",
    images: Sequence[str] = (),
    video: str | None = None,
    audio: str | None = None,
    sound: bool = True,
) -> dict[str, Any]:
    """The record that asks about these media, worded as the original's inference script does.

    An image with audio is a spoken question. A video is heard through `audio` if that is given, or
    else through its own sound track if it has one; not without `sound`.
    """
    record: dict[str, Any] = {}
    if images:
        record["image"] = list(images)
    if video is not None:
        record["video"] = video
    if audio is not None:
        record["audio_q" if images else "audio"] = audio
    if images and audio is not None:
        front = (IMAGE + "\n") * len(images) + f"User's question in speech: {AUDIO}\n"
    elif video is not None and (sound or audio is not None):
        front = AUDIO + IMAGE + "\n"
    elif audio is not None:
        front = AUDIO + "\n"
    else:
        front = (IMAGE + "\n") * (len(images) + (video is not None))
    return record | {"conversations": [{"from": "human", "value": front + text}]}


def _turns(record: dict[str, Any], spoken: Any) -> list[Turn]:
    conversations = record.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise OlaError("'conversations': expected a list of at least one message")
    turns = []
    for number, message in enumerate(conversations):
        where = f"'conversations'[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise OlaError(f"{where}: expected an object with 'from' and a text 'value', found {message!r}")
        if message.get("from") not in ROLES:
            raise OlaError(f"{where}: 'from' is {message.get('from')!r}, expected 'human' or 'gpt'")
        turns.append((message["from"], message["value"]))
    if spoken is not None:
        if not isinstance(spoken, str):
            raise OlaError(f"'text_q': expected text, found {spoken!r}")
        turns[0] = (turns[0][0], spoken)
    if turns[0][0] == "gpt":  # as in the original, an opening answer is dropped
        turns = turns[1:]
    if not turns:
        raise OlaError("'conversations': expected a message from 'human'")
    return turns
