"""Keys and marks of other projects in records: if ignored, they would be trained on without their media."""

import re
from collections.abc import Mapping, Sequence

from ola_jax.data.chat import AUDIO, IMAGE, Turn
from ola_jax.errors import OlaError, quote

KEYS = ("id", "image", "video", "audio", "audio_q", "text_q", "conversations")
_NOUNS = {
    "image": ("image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos"),
    "video": ("video", "videos", "vid", "vids", "clip", "clips", "frame", "frames", "movie", "movies"),
    "audio": ("audio", "audios", "speech", "speeches", "sound", "sounds", "wav", "wavs"),
    "media": ("media", "medias", "multimedia", "pixels"),
}
# Words which, beside a noun, make a key that holds media, unlike those of image_width.
_SAME_FILE = {"path", "paths", "file", "files", "filename", "filenames", "url", "urls", "uri", "name", "src"}
_OTHERS = {"list", "input", "inputs", "data", "ref", "refs", "q", "a", "question", "high", "low", "res"}
_OTHERS |= {"base", "b", "bytes"}
_KNOWN = {noun for nouns in _NOUNS.values() for noun in nouns} | _SAME_FILE | _OTHERS
# Marks of other projects, and Ola's own in other spellings, at the beginning or the end of a line, which is
# where marks are put. Within a sentence they are words, such as HTML's <video>.
_NAME = r"<\|?(?:image|video|audio|speech)(?:_?\d+|_pad)?\|?>"
_MARK = re.compile(rf"^\s*({_NAME})|({_NAME})\s*$", re.IGNORECASE | re.MULTILINE)


def check_keys(record: Mapping[object, object]) -> None:
    """Raises OlaError for a foreign key that seems to hold media, and for a key of Ola's in another case."""
    for key, value in record.items():
        if key in KEYS or not isinstance(key, str):
            continue
        if key.strip().lower() in KEYS[1:] and value:
            raise OlaError(
                f"{quote(key)} is not a key of Ola's records; rename it to {key.strip().lower()!r}"
            )
        if not _may_be_media(value):
            continue
        words = re.findall("[a-z]+|[0-9]+", re.sub("([a-z])([A-Z])", r"\1 \2", key).lower())
        kinds = [kind for kind, nouns in _NOUNS.items() if any(word in nouns for word in words)]
        if not kinds or not all(word in _KNOWN or word.isdigit() for word in words):
            continue
        present = [name for name in ("image", "video", "audio", "audio_q") if record.get(name)]
        if any(name.startswith(kinds[0]) for name in present) and _SAME_FILE.intersection(words):
            continue  # where the record's own image came from
        raise OlaError(
            f"{quote(key)} is not a key of Ola's records and seems to hold media ({quote(value)}); rename it "
            "to 'image' (a path or a list), 'video', 'audio', or 'audio_q' with 'text_q', or remove it"
        )


def check_marks(turns: Sequence[Turn], first: int, *, has_image: bool, has_audio: bool) -> None:
    """Raises OlaError for a mark whose media the record lacks; `first` is the number of the first turn."""
    missing = {} if has_image else {IMAGE: "no image or video in the record; add 'image' or 'video'"}
    if not has_audio:
        missing[AUDIO] = "no audio in the record; add 'audio' or 'audio_q'"
    for number, (_, text) in enumerate(turns, start=first):
        for mark, fault in missing.items():
            if mark in text:
                raise OlaError(f"'conversations'[{number}]: {mark!r} in the text and {fault}; {_IF_TEXT}")


def check_foreign_marks(turns: Sequence[Turn], first: int) -> None:
    """Raises OlaError for a mark of other projects in a question."""
    for number, (who, text) in enumerate(turns, start=first):
        found = _MARK.findall(text) if who == "human" and "<" in text else ()
        for mark in ("".join(pair) for pair in found):
            if mark not in (IMAGE, AUDIO):
                raise OlaError(
                    f"'conversations'[{number}]: {quote(mark)} in the text; the mark of an image or a video "
                    f"is {IMAGE!r}, that of audio {AUDIO!r}; {_IF_TEXT}"
                )


_IF_TEXT = "if it is plain text, set marks_are_text=True (of the Source, or of Processor.sample)"


def _may_be_media(value: object) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, str | bytes | dict | list) and bool(item) for item in items)
