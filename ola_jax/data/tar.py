"""Tar files in the layout of webdataset: members of one record share a name up to its first dot."""

import array
import dataclasses
import functools
import itertools
import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ola_jax.data import record_files
from ola_jax.data.chat import AUDIO, IMAGE
from ola_jax.data.json_table import Descriptor
from ola_jax.data.media import MediaBytes
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.rewriting import MEDIA_KEYS, map_media
from ola_jax.errors import OlaError, first_line

SUFFIXES = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    "video": ("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg"),
    "audio": ("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac"),
}
KINDS = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}


@dataclasses.dataclass(frozen=True, eq=False)
class TarTable:
    """The records of an uncompressed tar file, read at any position by an index of its members.

    A `.json` member is the record, whose media are the members beside it. With `.txt` alone, the text is the
    answer to a question that consists of the media.
    """

    path: str
    names: bytes  # of the members, each followed by a zero byte
    firsts: np.ndarray  # int64[records + 1]: the first member of each record
    offsets: np.ndarray  # int64[members], bytes
    sizes: np.ndarray  # int64[members], bytes
    name_ends: np.ndarray  # int64[members]

    @classmethod
    def open(cls, path: str) -> "TarTable":
        """Reads the headers of all members. Raises OlaError for a file that is damaged."""
        names, key = bytearray(), None
        firsts, offsets, sizes, ends = (array.array("q") for _ in range(4))
        for name, offset, size in _members(path):
            if (own := _key(name)) != key:
                firsts.append(len(offsets))
                key = own
            names += name.encode("utf-8", "surrogateescape") + b"\0"
            ends.append(len(names))
            offsets.append(offset)
            sizes.append(size)
        firsts.append(len(offsets))
        numbers = [np.frombuffer(x, np.int64).copy() for x in (firsts, offsets, sizes, ends)]
        return cls(path, bytes(names), *numbers)

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        members = range(int(self.firsts[index]), int(self.firsts[index + 1]))
        named = {self._name(number): number for number in members}
        texts = {suffix: n for name, n in named.items() if (suffix := _suffix(name)) in ("json", "txt")}
        if not texts:
            return Malformed(f"{self.path}: {next(iter(named))}: no .json or .txt member of this name")
        media: dict[str, list[MediaBytes]] = {}
        for name, number in named.items():
            if kind := KINDS.get(_suffix(name)):
                media.setdefault(kind, []).append(self._media(name, number))
        record: JsonRecord | Malformed = {}
        if "json" in texts:
            record = record_files.parse_bytes(self._read(texts["json"]), f"{self.path}: {next(iter(named))}")
        if isinstance(record, Malformed):
            return record
        if "conversations" not in record and "txt" in texts:
            text = self._read(texts["txt"]).decode("utf-8", "replace")
            record = record | {"conversations": _caption(text, media)}
        record.setdefault("id", _key(next(iter(named))))
        return with_media(record, media)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _file(self) -> Descriptor:
        try:
            return Descriptor(self.path)
        except OSError as error:
            raise OlaError(f"{self.path}: cannot be read ({error.strerror})") from error

    def _name(self, member: int) -> str:
        begin = int(self.name_ends[member - 1]) if member else 0
        return self.names[begin : int(self.name_ends[member]) - 1].decode("utf-8", "surrogateescape")

    def _read(self, member: int) -> bytes:
        return os.pread(self._file.number, int(self.sizes[member]), int(self.offsets[member]))

    def _media(self, name: str, member: int) -> MediaBytes:
        return MediaBytes(f"{self.path}: {name}", self._read(member), is_file=True)


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Name, position and size of each file in the tar file, in order."""
    try:
        with tarfile.open(path, "r:") as file:
            for number in itertools.count():
                if (member := file.next()) is None:
                    break
                if member.isfile():
                    yield member.name, member.offset_data, member.size
                if number % 1024 == 0:
                    vars(file)["members"].clear()  # tarfile would keep all of them
            end = file.offset
    except (tarfile.TarError, OSError, ValueError) as error:
        raise OlaError(f"{path}: cannot be read as a tar file ({first_line(error)})") from error
    if end > os.path.getsize(path):
        raise OlaError(f"{path}: the tar file is cut off; copy it again")


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.split(".")[0])


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1][1:].lower()


def _caption(text: str, media: dict[str, list[MediaBytes]]) -> list[dict[str, str]]:
    """A conversation whose answer is the text; the question consists of the marks of the media alone."""
    images = IMAGE * ("video" in media) + (IMAGE + "\n") * len(media.get("image", ()))
    question = AUDIO * ("audio" in media) + images
    return [
        {"from": "human", "value": question if question.endswith("\n") else question + "\n" * bool(question)},
        {"from": "gpt", "value": text},
    ]


def with_media(record: JsonRecord, media: dict[str, list[MediaBytes]]) -> JsonRecord:
    """The record with the members in the place of their names, or under their kinds if it names none."""
    given = {posixpath.basename(item.name): item for items in media.values() for item in items}
    if any(record.get(key) is not None for key in MEDIA_KEYS):
        used: set[int] = set()

        def replace(ref: Any) -> Any:
            item = given.get(posixpath.basename(ref)) if isinstance(ref, str) else None
            if item is None:
                return ref
            used.add(id(item))
            return item

        record = map_media(record, replace)
        for kind, items in media.items():  # the record has another name for its only image, video or audio
            if len(items) == 1 and id(items[0]) not in used and isinstance(record.get(kind), str):
                record = record | {kind: items[0]}
        return record
    return record | {kind: items if len(items) > 1 else items[0] for kind, items in media.items()}
