"""The index of a source: the sizes of its records, from which rows are planned before anything is decoded."""

import dataclasses
import hashlib
import json
import os
import pathlib
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int, UInt8

from ola_jax.data.failures import FailureKind
from ola_jax.errors import OlaError, first_line, shortened

VERSION = 1  # of the file
SUFFIX = ".index"  # of an index beside its records
COUNTED = ("tokens", "audio_chunks")  # the fields of a budget that every index has

RecordKind = Literal[
    "text", "image", "video", "audio", "video with audio", "image with audio", "spoken question", "unknown"
]
KINDS: tuple[RecordKind, ...] = get_args(RecordKind)


@dataclasses.dataclass(frozen=True)
class RecordSize:
    """The room that a record takes in a row."""

    counts: Mapping[str, int]  # by field of the budget: tokens, audio_chunks
    patches: tuple[int, ...]  # of each view of an image or video frame, in order
    kind: RecordKind = "unknown"


@dataclasses.dataclass(frozen=True)
class Failure:
    """The reason why a record cannot be used."""

    kind: FailureKind
    reason: str  # with the record's id and the file
    record: RecordKind = "unknown"


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The sizes of the n records of one source, by position; those of records that failed are 0.

    Arrays may be mapped from a file.
    """

    fields: tuple[str, ...]  # of the budget: the columns of `counts`
    counts: Int[np.ndarray, "n k"]  # int32
    image_offsets: Int[np.ndarray, "n_plus_1"]  # int64; record i has patches[offsets[i] : offsets[i + 1]]
    patches: Int[np.ndarray, "m"]  # int32, of each view or frame
    kinds: UInt8[np.ndarray, "n"]  # positions in KINDS
    failures: Mapping[int, Failure]  # by record

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def tokens(self) -> Int[np.ndarray, "n"]:
        """Tokens of each record, media included."""
        return self.column("tokens")

    @property
    def chunks(self) -> Int[np.ndarray, "n"]:
        """Chunks of audio of each record."""
        return self.column("audio_chunks")

    def column(self, field: str) -> Int[np.ndarray, "n"]:
        """The counts of one field of the budget; 0 if the index lacks it."""
        if field not in self.fields:
            return np.zeros(len(self), np.int32)
        return self.counts[:, self.fields.index(field)]

    def images(self, record: int) -> Int[np.ndarray, "_"]:
        """Patches of each view or frame of a record."""
        return self.patches[self.image_offsets[record] : self.image_offsets[record + 1]]

    def size(self, record: int) -> RecordSize:
        """The size of one record."""
        counts = dict(zip(self.fields, self.counts[record].tolist(), strict=True))
        return RecordSize(counts, tuple(self.images(record).tolist()), KINDS[self.kinds[record]])

    def __getitem__(self, part: slice) -> "Index":
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"an index is sliced in steps of 1, not {step}")
        stop = max(start, stop)
        offsets = np.asarray(self.image_offsets[start : stop + 1])
        return dataclasses.replace(
            self,
            counts=self.counts[start:stop],
            image_offsets=offsets - offsets[0],
            patches=self.patches[offsets[0] : offsets[-1]],
            kinds=self.kinds[start:stop],
            failures={i - start: f for i, f in self.failures.items() if start <= i < stop},
        )

    def take(self, records: Int[np.ndarray, "r"]) -> "Index":
        """The index of these records, in this order."""
        records = np.asarray(records, np.int64)
        starts = np.asarray(self.image_offsets[records])
        lengths = np.asarray(self.image_offsets[records + 1]) - starts
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        images = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        failed = np.flatnonzero(np.isin(records, list(self.failures))) if self.failures else ()
        return dataclasses.replace(
            self,
            counts=np.asarray(self.counts[records]),
            image_offsets=offsets,
            patches=np.asarray(self.patches[images]),
            kinds=np.asarray(self.kinds[records]),
            failures={int(i): self.failures[int(records[i])] for i in failed},
        )

    def digest(self) -> str:
        """A short digest of all sizes and of which records failed."""
        found = hashlib.blake2b(digest_size=8)
        failed = np.array(sorted(self.failures), np.int64)
        for array in (self.counts, self.image_offsets, self.patches, failed):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def make_index(results: Iterable[RecordSize | Failure]) -> Index:
    """The index of records with these sizes, in order."""
    sizes: list[RecordSize] = []
    failures: dict[int, Failure] = {}
    for number, result in enumerate(results):
        if isinstance(result, Failure):
            failures[number] = result
            result = RecordSize({}, (), result.record)
        sizes.append(result)
    counts = [size.counts for size in sizes]
    fields = tuple(dict.fromkeys([*COUNTED, *(field for each in counts for field in each)]))
    table = [[each.get(field, 0) for field in fields] for each in counts]
    return Index(
        fields=fields,
        counts=np.array(table, np.int32).reshape(len(sizes), len(fields)),
        image_offsets=np.cumsum([0, *(len(size.patches) for size in sizes)], dtype=np.int64),
        patches=np.array([patches for size in sizes for patches in size.patches], np.int32),
        kinds=np.array([KINDS.index(size.kind) for size in sizes], np.uint8),
        failures=failures,
    )


def concatenate(indices: Sequence[Index]) -> Index:
    """The index of the records of several indices, one after the other."""
    fields = tuple(dict.fromkeys([*COUNTED, *(field for index in indices for field in index.fields)]))
    starts = np.cumsum([0, *map(len, indices)]).tolist()
    images = np.cumsum([0, *(len(index.patches) for index in indices)], dtype=np.int64)
    offsets = [index.image_offsets[1:] + first for index, first in zip(indices, images, strict=False)]
    columns = [np.stack([index.column(f) for f in fields], axis=1, dtype=np.int32) for index in indices]
    return Index(
        fields=fields,
        counts=np.concatenate([np.zeros((0, len(fields)), np.int32), *columns]),
        image_offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        patches=np.concatenate([np.zeros(0, np.int32), *(index.patches for index in indices)]),
        kinds=np.concatenate([np.zeros(0, np.uint8), *(index.kinds for index in indices)]),
        failures={
            number + start: failure
            for index, start in zip(indices, starts, strict=False)
            for number, failure in index.failures.items()
        },
    )


def index_path(records: str | pathlib.Path) -> pathlib.Path:
    """The path of the index beside a file of records."""
    return pathlib.Path(f"{records}{SUFFIX}")


def digest_file(path: str | pathlib.Path) -> str:
    """A digest of the content of a file of records. Raises OlaError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OlaError(f"{path}: cannot be read ({error.strerror})") from error


def save_index(path: str | pathlib.Path, index: Index, *, settings: Mapping[str, Any], records: str) -> None:
    """Writes an index as one file that can be mapped, in the format of safetensors, in one step.

    `settings` are JSON values (`measure.describe_settings`), `records` is a digest of the records.
    """
    failures = json.dumps([[i, f.kind, f.reason, f.record] for i, f in index.failures.items()])
    arrays = {
        "counts": np.ascontiguousarray(index.counts, "<i4"),
        "image_offsets": np.ascontiguousarray(index.image_offsets, "<i8"),
        "patches": np.ascontiguousarray(index.patches, "<i4"),
        "kinds": np.ascontiguousarray(index.kinds, "u1"),
        "failures": np.frombuffer(failures.encode("ascii"), np.uint8),
    }
    metadata = {
        "ola_index": str(VERSION),
        "fields": json.dumps(index.fields),
        "settings": json.dumps(settings),
        "records": records,
    }
    # The order is by alignment, as in safetensors' own files.
    names = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        array = arrays[name]
        header[name] = {
            "dtype": _DTYPES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [end, end := end + array.nbytes],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path = pathlib.Path(path)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(struct.pack("<Q", len(head)) + head)
                for name in names:
                    file.write(arrays[name].data)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                pathlib.Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OlaError(f"{path}: the index cannot be written ({error.strerror}); make room for it") from error


def load_index(
    path: str | pathlib.Path, *, settings: Mapping[str, Any] | None = None, records: str | None = None
) -> Index:
    """The index in a file, mapped rather than read.

    Raises OlaError if it cannot be read, or was made with other settings or of other records than those
    given.
    """
    remake = "make it again with `ola data prepare`, or remove it"
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 2**24:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            metadata = header["__metadata__"]
            if metadata.get("ola_index") != str(VERSION):
                raise ValueError(f"its version is {metadata.get('ola_index')}, expected {VERSION}")
            _check_same(path, json.loads(metadata["settings"]), metadata["records"], settings, records)
            arrays = {name: _map(file.name, 8 + length, header[name]) for name in _NAMES}
            failures = json.loads(bytes(arrays["failures"]))
            index = Index(
                fields=tuple(json.loads(metadata["fields"])),
                counts=arrays["counts"],
                image_offsets=arrays["image_offsets"],
                patches=arrays["patches"],
                kinds=arrays["kinds"],
                failures={i: Failure(kind, reason, record) for i, kind, reason, record in failures},
            )
            _check_sizes(index)
            return index
    except OSError as error:
        raise OlaError(f"{path}: the index cannot be read ({error.strerror}); {remake}") from error
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise OlaError(f"{path}: not an index of records ({first_line(error)}); {remake}") from error


_DTYPES = {"<i4": "I32", "<i8": "I64", "|u1": "U8"}
_NAMES = ("counts", "image_offsets", "patches", "kinds", "failures")


def _map(path: str, start: int, entry: dict[str, Any]) -> np.ndarray:
    dtype = next(np.dtype(text) for text, name in _DTYPES.items() if name == entry["dtype"])
    shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    if last - first != dtype.itemsize * int(np.prod(shape)):
        raise ValueError("the sizes in its header do not match")
    if not last - first:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset=start + first, shape=shape)


def _check_sizes(index: Index) -> None:
    rows = len(index.kinds)
    if index.counts.shape != (rows, len(index.fields)) or index.image_offsets.shape != (rows + 1,):
        raise ValueError("its columns differ in length")
    if index.image_offsets[-1] != len(index.patches):
        raise ValueError("its images are incomplete")


def _check_same(
    path: str | pathlib.Path,
    saved: Mapping[str, Any],
    saved_records: str,
    settings: Mapping[str, Any] | None,
    records: str | None,
) -> None:
    advice = "make the index again with `ola data prepare`, or remove it"
    if records is not None and records != saved_records:
        raise OlaError(f"{path}: the records have changed since this index was made; {advice}")
    for name in {*saved, *settings} if settings is not None else ():
        there, here = saved.get(name), settings.get(name) if settings is not None else None
        if there != json.loads(json.dumps(here)):
            values = f"{shortened(repr(there), 60)}, now {shortened(repr(here), 60)}"
            raise OlaError(f"{path}: made with {name} = {values}; {advice}")
