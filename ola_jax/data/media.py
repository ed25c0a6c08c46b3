"""Finding the bytes that a record's media refer to: files, and byte ranges in patch files."""

import base64
import binascii
import dataclasses
import io
import os
import pathlib
import re
import stat
from collections.abc import Sequence
from typing import Any, BinaryIO

from ola_jax.config import MediaLimits
from ola_jax.errors import OlaError, first_line

LIMITS = MediaLimits()  # unless a config says otherwise


class MissingFileError(OlaError):
    """A file that a record names and that does not exist."""


class BadMediaError(OlaError):
    """Media that exist and cannot be used."""


class TimedOutError(BadMediaError):
    """Media whose decoding took longer than allowed, and was ended."""


class CrashedError(BadMediaError):
    """Media whose decoding ended the process that it ran in."""


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """A file that holds an encoded image, video or audio."""

    name: str  # for messages
    path: str

    def open(self) -> str:
        """Returns what decoders take: the path."""
        return self.path

    def read(self) -> bytes:
        """Returns the content of the file."""
        return pathlib.Path(self.path).read_bytes()


@dataclasses.dataclass(frozen=True)
class MediaBytes:
    """An encoded image, video or audio in memory: from a patch file, Parquet, a tar file or a shard.

    A record may hold it in the place of a path.
    """

    name: str  # for messages: the path of the file, and the byte range or the member
    data: bytes
    is_file: bool = False  # the content of a file, not an item of a patch file; decoded as that file would be
    bgr: bool = False  # a frame whose channels the original does not swap after decoding

    def __repr__(self) -> str:
        return f"<{len(self.data)} bytes of {self.name}>"

    def open(self) -> io.BytesIO:
        """Returns what decoders take: the bytes as a file."""
        return io.BytesIO(self.data)

    def read(self) -> bytes:
        """Returns the bytes."""
        return self.data


Media = MediaFile | MediaBytes


def is_media_file(ref: object) -> bool:
    """True for a reference to a file, by its path or with its content; False for items of a patch file."""
    return isinstance(ref, str) or (isinstance(ref, MediaBytes) and ref.is_file)


def short(value: object, length: int = 160) -> str:
    """A value for a message: on one line, a long one without its middle, a string without quotes."""
    text = value if isinstance(value, str) else _abbreviated(value, length)
    if len(text) > length:
        text = f"{text[: length // 2]}...{text[-length // 2 :]}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def locate(ref: object, root: str | None = None, limits: MediaLimits = LIMITS) -> Sequence[Media]:
    """The media that a reference of a record names; several for video frames in a patch file.

    A reference is a path, `{"img_path": path or list of paths}`, or `{"patch": path, "start_num": first byte,
    "size": bytes of one item or a list of them, "image_encoding": "base64" if so encoded, "bgr": True for
    frames to be trained on in that order}`, or media in memory. Relative paths are below `root`. Raises
    OlaError naming the file.
    """
    if isinstance(ref, MediaBytes):
        if not ref.data:
            raise BadMediaError(f"{ref.name}: has no bytes")
        return [ref]
    if not isinstance(ref, dict):
        return [_file(ref, root)]
    if "img_path" not in ref:
        return _read_patch(_check_patch(ref), root, limits)
    paths = ref["img_path"]
    if isinstance(paths, list) and not paths:
        raise OlaError("'img_path' is an empty list; expected the path of a file, or several")
    return [_file(path, root) for path in (paths if isinstance(paths, list) else [paths])]


@dataclasses.dataclass(frozen=True)
class _Patch:
    """A patch object of a record, after checking: items that follow each other in one file."""

    path: object  # checked when it is looked up
    start: int  # byte
    sizes: list[int]  # bytes of each item; may be negative
    base64: bool
    bgr: bool


def _check_patch(ref: dict[str, Any]) -> _Patch:
    given = ref.get("size")
    if given == []:
        raise OlaError(f"patch object {short(ref)}: 'size' is an empty list; expected the bytes of each item")
    numbers = [_number(size) for size in (given if isinstance(given, list) else [given])]
    sizes = [size for size in numbers if size is not None]
    start = _number(ref.get("start_num"))
    if "patch" not in ref or start is None or len(sizes) < len(numbers):
        raise OlaError(f"patch object {short(ref)}: expected 'patch', 'start_num' and 'size' in bytes")
    # The second spelling occurs in the original's own reader.
    encoding = ref.get("image_encoding", ref.get("image_encoing"))
    return _Patch(ref["patch"], start, sizes, encoding == "base64", ref.get("bgr") is True)


def _read_patch(patch: _Patch, root: str | None, limits: MediaLimits) -> list[MediaBytes]:
    file, start, items = _file(patch.path, root), patch.start, []
    total = sum(max(size, 0) for size in patch.sizes)
    try:
        with open(file.path, "rb") as opened:
            length = os.fstat(opened.fileno()).st_size
            for size in patch.sizes:
                name = f"{file.name} [bytes {short(str(start), 40)} to {short(str(start + size), 40)}]"
                _check_range(start, size, length=length, total=total, name=name, limits=limits)
                items.append(MediaBytes(name, _read_item(opened, start, size, name), bgr=patch.bgr))
                start += size
    except (OSError, ValueError) as error:
        raise BadMediaError(f"{file.name}: cannot be read ({first_line(error)})") from error
    return [dataclasses.replace(item, data=_from_base64(item)) for item in items] if patch.base64 else items


def _number(value: object) -> int | None:
    """The value of an integer of at most 63 bits, or of text that is one; else None.

    The original takes both.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def _check_range(start: int, size: int, *, length: int, total: int, name: str, limits: MediaLimits) -> None:
    """Raises BadMediaError, before anything is read, for an item that is incomplete or beyond the limit."""
    if start < 0:
        raise BadMediaError(f"{name}: cannot be read; 'start_num' must be at least 0")
    available = max(min(length - start, size), 0)
    if available < size or size <= 0:
        raise _too_short(name, available)
    if total > limits.patch_bytes:
        allowed = f"at most {limits.patch_bytes} are read (patch_bytes)"
        raise BadMediaError(f"{name}: {total} bytes in all, {allowed}; check 'size' or raise the limit")


def _read_item(file: BinaryIO, start: int, size: int, name: str) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise _too_short(name, len(data))
    return data


def _too_short(name: str, available: int) -> BadMediaError:
    return BadMediaError(f"{name}: the file has only {available} bytes there; check 'start_num' and 'size'")


def _from_base64(item: MediaBytes) -> bytes:
    try:
        data = base64.b64decode(b"".join(item.data.split()), validate=True)
    except binascii.Error as error:
        raise BadMediaError(
            f"{item.name}: not base64 ({first_line(error)}); correct it, or remove 'image_encoding'"
        ) from error
    if not data:
        raise BadMediaError(f"{item.name}: not base64 (it is empty)")
    return data


def _file(path: object, root: str | None) -> MediaFile:
    if not isinstance(path, str) or not path:
        raise OlaError(f"expected the path of a file, found {short(path) or 'an empty string'}")
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
        fault = "is a directory, not a file" if stat.S_ISDIR(found.st_mode) else "is not a regular file"
        raise MissingFileError(f"{name}: {fault}")
    if found.st_size == 0:
        raise BadMediaError(f"{name}: the file is empty")
    return MediaFile(name, full)


def _hint(path: str) -> str:
    """Advice for a URL given instead of a path; "" for anything else."""
    if path.startswith("data:") or re.match(r"[a-z][a-z0-9+.-]*://", path):
        return "; URLs and data URIs are not read, expected the path of a file"
    return ""


def _abbreviated(value: object, length: int, depth: int = 3) -> str:
    """The `repr` of a value, without building all of that of a long or deep one."""
    if isinstance(value, str):
        return repr(value[:length] + value[-length:] if len(value) > 2 * length else value)
    if isinstance(value, bytes):
        return repr(value[:length] + value[-length:] if len(value) > 2 * length else value)
    if isinstance(value, list | tuple | dict) and value and not depth:
        return "[...]"
    if isinstance(value, list | tuple):
        inner = [_abbreviated(item, length, depth - 1) for item in value[:8]]
        return f"[{', '.join(inner)}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, dict):
        pairs = [[_abbreviated(x, length, depth - 1) for x in pair] for pair in list(value.items())[:8]]
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + (", ...}" if len(value) > 8 else "}")
    if type(value) is int and abs(value) >= 10**40:  # Python itself refuses to print very long ones
        return f"a number of {value.bit_length()} bits"
    return repr(value)
