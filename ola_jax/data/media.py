"""Finding the bytes that a record's media refer to: files, and places in patch files."""

import base64
import binascii
import dataclasses
import io
import pathlib
from typing import Any

from ola_jax.errors import OlaError


class MissingFileError(OlaError):
    """A file that a record names, and that is not there."""


class BadMediaError(OlaError):
    """A file that is there, and cannot be used."""


@dataclasses.dataclass(frozen=True)
class Media:
    """An encoded image, video or sound: a file, or bytes from within one."""

    name: str  # for messages: the path, and the place in it
    path: str | None = None
    data: bytes | None = None

    def open(self) -> str | io.BytesIO:
        """What decoders take: the path, or the bytes as a file."""
        return self.path if self.data is None else io.BytesIO(self.data)


def locate(ref: str | dict[str, Any], root: str | None = None) -> list[Media]:
    """The media that a reference of a record stands for; more than one for video frames in a patch file.

    A dict is either `{"img_path": file}` or `{"patch": file, "start_num": first byte, "size": bytes of
    one item or a list of them, "image_encoding": "base64" if so encoded}`. Relative paths are below
    `root`. Raises OlaError naming the file.
    """
    if isinstance(ref, str):
        return [_file(ref, root)]
    if "img_path" in ref:
        paths = ref["img_path"] if isinstance(ref["img_path"], list) else [ref["img_path"]]
        return [_file(path, root) for path in paths]
    try:
        sizes = ref["size"] if isinstance(ref["size"], list) else [ref["size"]]
        sizes = [int(size) for size in sizes]
        start, patch = int(ref["start_num"]), ref["patch"]
    except (KeyError, TypeError, ValueError) as error:
        raise OlaError(f"patch object {ref!r}: expected 'patch', 'start_num' and 'size' in bytes") from error
    if not sizes:
        raise OlaError(f"patch object {ref!r}: 'size' is an empty list")
    path = _file(patch, root).path
    # The second spelling occurs in the original's own reader.
    encoding = ref.get("image_encoding", ref.get("image_encoing"))
    items = []
    for size in sizes:
        name = f"{path} [bytes {start} to {start + size}]"
        data = _read(path, start, size, name)
        if encoding == "base64":
            try:
                data = base64.b64decode(data)
            except binascii.Error as error:
                raise BadMediaError(f"{name}: not base64: {error}") from error
        items.append(Media(name, data=data))
        start += size
    return items


def _read(path: str, start: int, size: int, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(max(size, 0))
    except (OSError, ValueError) as error:
        raise BadMediaError(f"{name}: cannot be read ({error})") from error
    if len(data) != size or not data:
        raise BadMediaError(f"{name}: only {len(data)} bytes there; check 'start_num' and 'size'")
    return data


def _file(path: Any, root: str | None) -> Media:
    if not isinstance(path, str) or not path:
        raise OlaError(f"expected the path of a file, found {path!r}")
    full = pathlib.Path(root or "") / path
    if not full.is_file():
        problem = "is a directory, not a file" if full.is_dir() else "no such file"
        raise MissingFileError(f"{full}: {problem}")
    if full.stat().st_size == 0:
        raise BadMediaError(f"{full}: the file is empty")
    return Media(str(full), path=str(full))
