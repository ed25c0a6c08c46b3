"""Finding the bytes that a record's media refer to: files, and places in patch files."""

import base64
import binascii
import dataclasses
import io
import os
import pathlib
import re
import stat
from typing import Any

from ola_jax.config import MediaLimits
from ola_jax.errors import OlaError, first_line

LIMITS = MediaLimits()  # unless a config says otherwise


class MissingFileError(OlaError):
    """A file that a record names, and that is not there."""


class BadMediaError(OlaError):
    """A file that is there, and cannot be used."""


class TimedOutError(BadMediaError):
    """Media whose decoding took longer than allowed, and was ended."""


class CrashedError(BadMediaError):
    """Media whose decoding ended the process that it ran in."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An encoded image, video or sound: a file, or bytes from within one."""

    name: str  # for messages: the path, and the place in it
    path: str | None = None
    data: bytes | None = None

    def open(self) -> str | io.BytesIO:
        """What decoders take: the path, or the bytes as a file."""
        return self.path if self.data is None else io.BytesIO(self.data)


def short(value: Any, length: int = 160) -> str:
    """A value for a message, on one line, a long one without its middle; a text without quotes."""
    text = value if isinstance(value, str) else _written(value, length)
    if len(text) > length:
        text = f"{text[: length // 2]}...{text[-length // 2 :]}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def locate(ref: Any, root: str | None = None, limits: MediaLimits = LIMITS) -> list[Media]:
    """The media that a reference of a record stands for; more than one for video frames in a patch file.

    A reference is a path, `{"img_path": path or list of paths}`, or `{"patch": path, "start_num": first byte,
    "size": bytes of one item or a list of them, "image_encoding": "base64" if so encoded}`. Relative paths
    are below `root`. Raises OlaError naming the file.
    """
    if isinstance(ref, dict):
        return _patch(ref, root, limits) if "img_path" not in ref else _files(ref["img_path"], root)
    return [_file(ref, root)]


def _files(paths: Any, root: str | None) -> list[Media]:
    if isinstance(paths, list) and not paths:
        raise OlaError("'img_path' is an empty list; expected the path of a file, or several")
    return [_file(path, root) for path in (paths if isinstance(paths, list) else [paths])]


def _patch(ref: dict[str, Any], root: str | None, limits: MediaLimits) -> list[Media]:
    sizes = ref.get("size") if isinstance(ref.get("size"), list) else [ref.get("size")]
    if not sizes:
        raise OlaError(f"patch object {short(ref)}: 'size' is an empty list")
    sizes = [_number(size) for size in sizes]
    start = _number(ref.get("start_num"))
    if "patch" not in ref or start is None or None in sizes:
        raise OlaError(f"patch object {short(ref)}: expected 'patch', 'start_num' and 'size' in bytes")
    file = _file(ref["patch"], root)
    total = sum(max(size, 0) for size in sizes)
    # The second spelling occurs in the original's own reader.
    encoding = ref.get("image_encoding", ref.get("image_encoing"))
    items = []
    try:
        with open(file.path, "rb") as opened:
            length = os.fstat(opened.fileno()).st_size
            for size in sizes:
                name = f"{file.name} [bytes {short(str(start), 40)} to {short(str(start + size), 40)}]"
                items.append(Media(name, data=_read(opened, start, size, length, total, name, limits)))
                start += size
    except (OSError, ValueError) as error:
        raise BadMediaError(f"{file.name}: cannot be read ({first_line(error)})") from error
    if encoding != "base64":
        return items
    return [dataclasses.replace(item, data=_from_base64(item)) for item in items]


def _number(value: Any) -> int | None:
    """A whole number that a file may have, or text that is one (the original takes both); else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _read(
    file: io.BufferedIOBase, start: int, size: int, length: int, total: int, name: str, limits: MediaLimits
) -> bytes:
    """The bytes of one item; none are read of an item that is not all there or beyond the limit."""
    if start < 0:
        raise BadMediaError(f"{name}: cannot be read; 'start_num' must be at least 0")
    there = max(min(length - start, size), 0)
    if there < size or size <= 0:
        raise BadMediaError(f"{name}: only {there} bytes there; check 'start_num' and 'size'")
    if total > limits.patch_bytes:
        allowed = f"at most {limits.patch_bytes} are read (patch_bytes)"
        raise BadMediaError(f"{name}: {total} bytes in all, {allowed}")
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise BadMediaError(f"{name}: only {len(data)} bytes there; check 'start_num' and 'size'")
    return data


def _from_base64(item: Media) -> bytes:
    try:
        data = base64.b64decode(b"".join(item.data.split()), validate=True)
    except binascii.Error as error:
        raise BadMediaError(f"{item.name}: not base64: {first_line(error)}") from error
    if not data:
        raise BadMediaError(f"{item.name}: not base64: nothing in it")
    return data


def _file(path: Any, root: str | None) -> Media:
    if not isinstance(path, str) or not path:
        raise OlaError(f"expected the path of a file, found {short(path) or 'an empty text'}")
    full = str(pathlib.Path(root or "") / path)
    name = short(full)
    try:
        found = os.stat(full)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"{name}: no such file{_hint(path)}") from error
    except OSError as error:
        raise MissingFileError(f"{name}: cannot be read ({error.strerror}){_hint(path)}") from error
    except ValueError as error:  # NUL, or half of a surrogate pair
        reason = f"not the path of a file ({first_line(error)})"
        raise MissingFileError(f"{name}: {reason}{_hint(path)}") from error
    if not stat.S_ISREG(found.st_mode):
        what = "is a directory, not a file" if stat.S_ISDIR(found.st_mode) else "is not a regular file"
        raise MissingFileError(f"{name}: {what}")
    if found.st_size == 0:
        raise BadMediaError(f"{name}: the file is empty")
    return Media(name, path=full)


def _hint(path: str) -> str:
    """What to do about an address in the place of a path."""
    if path.startswith("data:") or re.match(r"[a-z][a-z0-9+.-]*://", path):
        return "; addresses and data URIs are not read, expected the path of a file"
    return ""


def _written(value: Any, length: int, depth: int = 3) -> str:
    """What `repr` gives, without writing all of a long or deep value."""
    if isinstance(value, str | bytes):
        return repr(value[:length] + value[-length:] if len(value) > 2 * length else value)
    if isinstance(value, list | tuple | dict) and value and not depth:
        return "[...]"
    if isinstance(value, list | tuple):
        inner = [_written(item, length, depth - 1) for item in value[:8]]
        return f"[{', '.join(inner)}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, dict):
        pairs = [(_written(x, length, depth - 1) for x in pair) for pair in list(value.items())[:8]]
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + (", ...}" if len(value) > 8 else "}")
    if type(value) is int and abs(value) >= 10**40:  # Python itself refuses to write very long ones
        return f"a number of {value.bit_length()} bits"
    return repr(value)
