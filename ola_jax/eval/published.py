"""Reading the published files of benchmarks: TSV, parquet, JSON; their columns and checksums."""

import base64
import csv
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ola_jax.errors import OlaError, first_line, quote, require
from ola_jax.eval.items import EmbeddedMedia

MAX_CELL = 2**31 - 1  # characters of a TSV cell: images are in it


@dataclasses.dataclass(frozen=True)
class Checksum:
    """The MD5 of a published file, and whether a file has it."""

    file: str
    md5: str
    known: str | None  # None: none is known for this file

    @property
    def verdict(self) -> str:
        """A word for the table of results."""
        return "unknown" if self.known is None else "as published" if self.known == self.md5 else "other"


def checksum(file: pathlib.Path, known: Mapping[str, str]) -> Checksum:
    """The checksum of a file, with that of the published file of its name."""
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
    except OSError as error:
        raise OlaError(f"{file}: cannot be read ({first_line(error)})") from error
    return Checksum(file.name, found, known.get(file.name))


def find(folder: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
    """The files of a benchmark: those of the first pattern that matches, below `folder` or beside it.

    `folder` may be the file itself. Raises OlaError naming what was looked for.
    """
    if folder.is_file():
        return [folder]
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise OlaError(f"{folder}: none of the benchmark's files is there; expected {' or '.join(patterns)}")


def check_columns(row: Mapping[str, object], columns: Iterable[str], file: pathlib.Path) -> None:
    """Raises OlaError for a table without one of the columns."""
    if missing := [name for name in columns if name not in row]:
        raise OlaError(
            f"{file}: no column {missing[0]!r}; found {quote(sorted(map(str, row)))}. Is this the published "
            "file of this benchmark?"
        )


def read_tsv(file: pathlib.Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a TSV file with a header; empty cells are left out of a row."""
    csv.field_size_limit(MAX_CELL)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t")
            check_columns(dict.fromkeys(reader.fieldnames or ()), columns, file)
            rows = [{k: v for k, v in row.items() if k is not None and v not in (None, "")} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OlaError(f"{file}: cannot be read as TSV ({first_line(error)})") from error
    for number, row in enumerate(rows):
        if missing := [name for name in columns if name not in row]:
            raise OlaError(f"{file}: row {number} (from 0) has nothing in column {missing[0]!r}")
    return _not_empty(rows, file)


def read_json(file: pathlib.Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSON array, or of a JSON Lines file."""
    try:
        text = file.read_text(encoding="utf-8")
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if file.suffix == ".jsonl"
            else json.loads(text)
        )
    except (OSError, ValueError) as error:
        raise OlaError(f"{file}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise OlaError(f"{file}: expected an array of objects, found {quote(rows)}")
    for row in rows:
        check_columns(row, columns, file)
    return _not_empty(rows, file)


def read_parquet(
    files: Sequence[pathlib.Path], columns: Sequence[str], media: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of parquet files; cells of the columns `media` become EmbeddedMedia, or None if empty."""
    require("eval", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
            check_columns(dict.fromkeys(opened.schema_arrow.names), [*columns, *media], file)
            light = [name for name in opened.schema_arrow.names if name not in media]
            number = 0
            for group in range(opened.num_row_groups):
                for index, row in enumerate(opened.read_row_group(group, columns=light).to_pylist()):
                    cells = {name: _cell(file, group, index, name, number) for name in media}
                    rows.append(row | cells)
                    number += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise OlaError(f"{file}: cannot be read as parquet ({first_line(error)})") from error
    return _not_empty(rows, files[0])


def base64_media(text: str, name: str) -> EmbeddedMedia:
    """Media in a text cell. Raises OlaError when they are read, if they are not base64."""

    def read() -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise OlaError(f"{name}: not base64 ({first_line(error)})") from error

    return EmbeddedMedia(name, read)


def is_present(media: EmbeddedMedia) -> bool:
    """True if a cell of a parquet file holds media."""
    return bool(media.read())


def _cell(file: pathlib.Path, group: int, index: int, column: str, row: int) -> EmbeddedMedia:
    return EmbeddedMedia(f"{file} row {row} column {column!r}", lambda: _column(file, group, column)[index])


@functools.lru_cache(maxsize=4)
def _column(file: pathlib.Path, group: int, column: str) -> list[bytes]:
    """The bytes of a media column of one row group; kept, as its neighbours are read next."""
    from pyarrow import parquet

    values = parquet.ParquetFile(file).read_row_group(group, columns=[column]).column(0).to_pylist()
    return [_media_bytes(value, f"{file} column {column!r}") for value in values]


def _media_bytes(value: object, where: str) -> bytes:
    """Bytes, or the struct {bytes, path} that Hugging Face's data sets store; b"" for none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        return b""
    if isinstance(value, str):
        return base64_media(value, where).read()
    if not isinstance(value, bytes):
        raise OlaError(f"{where}: expected media, found {quote(value)}")
    return value


def _not_empty(rows: list[dict[str, Any]], file: pathlib.Path) -> list[dict[str, Any]]:
    if not rows:
        raise OlaError(f"{file}: no questions in it")
    return rows
