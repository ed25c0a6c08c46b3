"""Parquet files of records, with media in them as Hugging Face's `datasets` writes them.

A row is a record; or, as webdataset names its members, a column `json` is, beside columns such as `mp4`.
"""

import bisect
import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterator
from typing import Any

from ola_jax.data.media import MediaBytes
from ola_jax.data.record_files import JsonRecord, Malformed, parse_bytes
from ola_jax.data.rewriting import map_media
from ola_jax.data.tar import KINDS, with_media
from ola_jax.errors import OlaError, first_line, require

ROWS = 8  # that are read at a time


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetTable:
    """The rows of a Parquet file, one record each; media are bytes, `{"bytes", "path"}`, or paths.

    Rows in order are read once; a row before the last one that was read costs reading its row group again.
    """

    path: str
    ends: list[int]  # rows up to the end of each row group

    @classmethod
    def open(cls, path: str) -> "ParquetTable":
        """Opens a file. Raises OlaError if it is damaged, or has no column `conversations`."""
        require("data", "pyarrow")
        file = _open(path)
        if "conversations" not in (names := _names(file.schema_arrow)):
            raise OlaError(
                f"{path}: has the columns {', '.join(names)}; expected 'conversations', and 'id', 'image', "
                "'video' or 'audio' if there are any"
            )
        rows = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
        return cls(path, list(itertools.accumulate(rows)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        group = bisect.bisect_right(self.ends, index)
        first = self.ends[group - 1] if group else 0
        try:
            row = self._reader.read(group, index - first)
        except Exception as error:  # pyarrow's own kinds, and those of the system
            return Malformed(f"{self.path}: row {index} cannot be read ({first_line(error)})")
        name = f"{self.path} [row {index}]"
        return _record(row, name) if "conversations" in row else _record_of_members(row, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "ends": self.ends}

    @functools.cached_property
    def _reader(self) -> "_Reader":
        return _Reader(self.path)


class _Reader:
    """Reads rows of a group in order, a few at a time."""

    def __init__(self, path: str) -> None:
        self._file, self._lock = _open(path), threading.Lock()
        self._group, self._first = -1, 0  # the group that is being read, and the first row in `_rows`
        self._rows: list[dict[str, Any]] = []
        self._batches: Iterator[Any] = iter(())

    def read(self, group: int, row: int) -> dict[str, Any]:
        with self._lock:
            if group != self._group or row < self._first:
                self._group, self._first, self._rows = group, 0, []
                self._batches = self._file.iter_batches(ROWS, row_groups=[group], use_threads=False)
            try:
                while row >= self._first + len(self._rows):
                    batch = next(self._batches)
                    self._first += len(self._rows)
                    # Rows before the one that is asked for need not become Python objects.
                    skip = row >= self._first + batch.num_rows
                    self._rows = [{}] * batch.num_rows if skip else batch.to_pylist()
                return self._rows[row - self._first]
            except BaseException:
                self._group = -1
                raise


def _open(path: str) -> Any:
    import pyarrow.parquet  # only where it is needed: it is a large library

    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except Exception as error:
        raise OlaError(f"{path}: cannot be read as Parquet ({first_line(error)})") from error


def _names(schema: Any) -> list[str]:
    """The names of columns, and the keys of the objects in a column `json` where the file states them."""
    names = list(schema.names)
    if "conversations" in names or "json" not in names:
        return names
    kind = schema.field("json").type
    keys = [kind.field(i).name for i in range(kind.num_fields)] or ["conversations"]  # of text: by each row
    return [*names, *(key if key == "conversations" else f"json.{key}" for key in keys)]


def _record(row: dict[str, Any], name: str) -> JsonRecord:
    return map_media(row, lambda ref: _media(ref, name))


def _record_of_members(row: dict[str, Any], name: str) -> JsonRecord | Malformed:
    """The record in the column `json`, with the media of the columns beside it."""
    found = row["json"]
    if isinstance(found, str | bytes):
        found = parse_bytes(found.encode() if isinstance(found, str) else found, name)
    if not isinstance(found, dict):
        return found if isinstance(found, Malformed) else Malformed(f"{name}: 'json' is empty")
    media: dict[str, list[MediaBytes]] = {}
    for column, value in row.items():
        if column in KINDS and isinstance(item := _media(value, f"{name} {column}"), MediaBytes):
            media.setdefault(KINDS[column], []).append(item)
    return with_media(found, media)


def _media(ref: Any, name: str) -> Any:
    if isinstance(ref, bytes):
        return MediaBytes(name, ref, is_file=True)
    if isinstance(ref, dict) and "bytes" in ref:
        data, path = ref["bytes"], ref.get("path")
        return path if data is None else MediaBytes(f"{name} {path or ''}".rstrip(), data, is_file=True)
    return ref
