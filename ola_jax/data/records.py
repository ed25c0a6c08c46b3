"""Ola's JSON records: reading files of them, and parsing a record into typed fields."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from ola_jax.data import record_files
from ola_jax.data.chat import (
    AUDIO,
    IMAGE,
    ROLES,
    Speaker,
    Turn,
    add_newline_after_audio,
    move_placeholders_first,
    normalize_line_ends,
)
from ola_jax.data.failures import NothingToLearnError
from ola_jax.data.foreign import check_foreign_marks, check_keys, check_marks
from ola_jax.data.media import MediaBytes, is_media_file
from ola_jax.data.merging import check_counts
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.errors import OlaError, one_line, quote, shortened

MAX_ID = 120  # characters of an id that are kept

MediaRef = str | dict[str, Any] | MediaBytes  # as `media.locate` takes it: a path, a patch object, or bytes


@dataclasses.dataclass(frozen=True)
class ParsedRecord:
    """A record after checking; its messages are ready to be tokenized."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[MediaRef, ...] = ()
    video: MediaRef | list[MediaRef] | None = None
    audio: MediaRef | None = None
    is_prompt: bool = False  # ends with a human turn: for the assistant to continue
    has_audio: bool = False  # AUDIO in the text is `audio`, or the video's own sound track

    def without_audio(self) -> "ParsedRecord":
        """The same record with its audio placeholders removed."""
        turns = tuple((speaker, text.replace(AUDIO, "")) for speaker, text in self.turns)
        return dataclasses.replace(self, turns=turns, audio=None, has_audio=False)


def read_records(path: str | pathlib.Path) -> list[JsonRecord]:
    """All records of a JSON file (an array) or a JSON Lines file (one object per line, named .jsonl).

    Raises OlaError for a file that cannot be read, and for the first element that is not an object.
    """
    records: list[JsonRecord] = []
    for number, record in enumerate(record_files.load(path)):
        if isinstance(record, Malformed):
            where = "" if record.reason.startswith("line ") else f"record {number} (from 0): "
            raise OlaError(f"{path}: {where}{record.reason}")
        records.append(record)
    return records


def record_id(record: object) -> str:
    """The record's id as text, abbreviated if it is very long; "" if it has none."""
    value = record.get("id") if isinstance(record, dict) else None
    if value is None:
        return ""
    return shortened(one_line(value if isinstance(value, str) else quote(value)), MAX_ID)


def message_prefix(record: object) -> str:
    """The beginning of messages about this record: "record ID: ", or "" if it has no id."""
    value = record.get("id") if isinstance(record, dict) else None
    return "" if value is None else f"record {quote(value)}: "


def parse_record(record: object, *, training: bool = False, marks_are_text: bool = False) -> ParsedRecord:
    """Parses a JSON record. Raises OlaError naming the key that is wrong (the caller adds the id).

    Kinds: text; `image` (one, or a list); `video`; `audio`; `video` + `audio`; spoken questions,
    `audio_q` with `text_q` replacing the first message of 'human', with or without `image`.

    With `training`, the record is never a prompt: a last question without an answer is kept. With
    `marks_are_text`, marks such as "<image>" are text unless the record has such media.
    """
    if not isinstance(record, dict):
        found = repr(record) if isinstance(record, Malformed) else type(record).__name__
        raise OlaError(f"expected a JSON object, found {found}")
    check_keys(record)
    images, video = record.get("image"), record.get("video")
    images = tuple(images) if isinstance(images, list) else () if images is None else (images,)
    audio_key = "audio_q" if record.get("audio_q") is not None else "audio"
    audio = record.get(audio_key)
    if record.get("audio") is not None and audio_key == "audio_q":
        raise OlaError("both 'audio' and 'audio_q' are given; keep one of them")
    if images and video is not None:
        raise OlaError("both 'image' and 'video' are given; keep one of them")
    frames = video if isinstance(video, list) else [] if video is None else [video]
    if video is not None and not frames:
        raise OlaError("'video' is an empty list; expected the path of a file, or a list of frames")
    for key, refs in (("image", images), ("video", frames), (audio_key, () if audio is None else (audio,))):
        for ref in refs:
            if not isinstance(ref, str | dict | MediaBytes) or not ref:
                raise OlaError(f"{key!r}: expected a path or a patch object, found {quote(ref)}")
    first, turns = _turns(record, record.get("text_q") if audio_key == "audio_q" else None)
    is_prompt = turns[-1][0] == "human" and not training
    has_image = bool(images) or video is not None
    # A video file may have a sound track. A list of frames has none, but its prompt may have the mark.
    may_have_track = is_media_file(video) or (video is not None and is_prompt)
    has_audio = audio is not None or (may_have_track and any(AUDIO in text for _, text in turns))
    if not marks_are_text:
        check_marks(turns, first, has_image=has_image, has_audio=has_audio)
        if not is_prompt:
            check_foreign_marks(turns, first)
    if has_image and (video is not None or all(not isinstance(ref, dict) for ref in images)):
        if video is None:
            check_counts(IMAGE, found=_count(turns, IMAGE), expected=len(images), modality="image")
        else:
            check_counts(IMAGE, found=_count(turns, IMAGE), expected=1, modality="video")
    if has_audio:
        check_counts(AUDIO, found=_count(turns, AUDIO), expected=1, modality="audio")
    turns = [(speaker, normalize_line_ends(text, has_image, has_audio)) for speaker, text in turns]
    if audio_key == "audio_q":
        turns = [(speaker, add_newline_after_audio(text)) for speaker, text in turns]
    elif not is_prompt:
        turns = [(speaker, move_placeholders_first(text, has_image, has_audio)) for speaker, text in turns]
    if is_prompt and not has_image and audio is None and not turns[-1][1].strip():
        raise OlaError("the prompt is empty; expected text, an image, a video or audio")
    if training and not any(s == "gpt" and _without_marks(text, has_image, has_audio) for s, text in turns):
        raise NothingToLearnError("'conversations': no answer of 'gpt' to learn from; expected at least one")
    return ParsedRecord(record_id(record), tuple(turns), images, video, audio, is_prompt, has_audio)


def prompt_record(
    text: str = "",
    *,
    images: Sequence[str] = (),
    video: str | None = None,
    audio: str | None = None,
    sound: bool = True,
) -> JsonRecord:
    """The record that asks about these media, worded as in the original's inference script.

    An image with audio is a spoken question. A video comes with `audio` if that is given, or else with its
    own sound track if it has one and `sound` is True. The original fails on spoken questions, text alone,
    silent videos and several images (quirks I3, I4, I5 and I6).
    """
    record: JsonRecord = {}
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


def _turns(record: JsonRecord, spoken: object) -> tuple[int, list[Turn]]:
    """The number of the first message that is used, and the messages from there."""
    conversations = record.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise OlaError(
            f"'conversations': expected a list of at least one message, found {quote(conversations)}"
        )
    turns: list[Turn] = []
    for number, message in enumerate(conversations):
        where = f"'conversations'[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("value"), str):
            raise OlaError(
                f"{where}: expected an object with 'from' and a string 'value', found {quote(message)}"
            )
        found = message.get("from")
        if not isinstance(found, str) or found not in ROLES:
            raise OlaError(f"{where}: 'from' is {quote(found)}; expected 'human' or 'gpt'")
        speaker: Speaker = "human" if found == "human" else "gpt"
        turns.append((speaker, _text(message["value"], f"{where}: 'value'")))
    first = int(turns[0][0] == "gpt")  # as in the original, an answer at the beginning is dropped
    turns = turns[first:]
    if not turns:
        raise OlaError("'conversations': expected a message from 'human'")
    if spoken is not None:
        if not isinstance(spoken, str):
            raise OlaError(f"'text_q': expected a string, found {quote(spoken)}")
        turns[0] = (turns[0][0], _text(spoken, "'text_q'"))
    return first, turns


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise OlaError(
            f"{where}: character {error.start} is half of a surrogate pair (U+{ord(half):04X}), which no "
            "text may contain; write the full character"
        ) from error
    return text


def _count(turns: list[Turn], mark: str) -> int:
    return sum(text.count(mark) for _, text in turns)


def _without_marks(text: str, has_image: bool, has_audio: bool) -> str:
    """The text of a message without its placeholders."""
    text = text.replace(IMAGE, "") if has_image else text
    return text.replace(AUDIO, "") if has_audio else text
