"""Files of records: a JSON array, or JSON Lines. Bad elements and lines are kept, as `Malformed`."""

import dataclasses
import io
import json
import pathlib
from typing import Any

from ola_jax.errors import OlaError, first_line, quote

LINE_SUFFIXES = (".jsonl", ".ndjson")
_EXPECTED = "expected a JSON array of records, or JSON Lines in a file named .jsonl"
_MAGIC = {  # first bytes of files that are often given instead
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"PAR1": "a Parquet file; write its rows as JSON Lines first",
    b"\xff\xfe": "UTF-16 or UTF-32 text; convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8 first",
    b"\0\0\xfe\xff": "UTF-32 text; convert it to UTF-8 first",
}


JsonRecord = dict[str, Any]  # a record as read from a file, not yet checked


@dataclasses.dataclass(frozen=True)
class Malformed:
    """An element or a line of a file that is not a JSON object."""

    reason: str

    def __repr__(self) -> str:
        return f"a malformed one ({self.reason})"


def load(path: str | pathlib.Path, *, is_lines: bool | None = None) -> list[JsonRecord | Malformed]:
    """All records of a JSON file (an array) or of a JSON Lines file (one object per line).

    `is_lines`: by default, a file named .jsonl has lines. Lines end at line feeds only, since other
    separators may occur in text. A line that cannot be parsed, an element that is not an object and an
    object with a duplicate key become Malformed. Raises OlaError for a file that cannot be read at all.
    """
    data = _read_bytes(path)
    if str(path).lower().endswith(LINE_SUFFIXES) if is_lines is None else is_lines:
        lines = enumerate(io.BytesIO(data), start=1)
        return [
            parse_bytes(line.rstrip(b"\r\n"), f"line {number}")
            for number, line in lines
            if line.strip(b" \t\r\n\xef\xbb\xbf")
        ]
    try:
        found = _parse(data)
    except _NotJsonError as error:
        hint = "; name a file of JSON Lines .jsonl" if _is_json_lines(data) else ""
        raise OlaError(f"{path}: not valid JSON: {error}{hint}") from error
    if not isinstance(found, list):
        raise OlaError(f"{path}: {_EXPECTED}, found {_name(found)}")
    return [_record(element) for element in found]


def check_head(path: str | pathlib.Path, data: bytes) -> None:
    """Raises OlaError if a file that begins with `data` is none of JSON."""
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise OlaError(f"{path}: is {what}; {_EXPECTED}")
    if b"\0" in data[:4]:
        raise OlaError(f"{path}: is binary, or UTF-16 or UTF-32 text; {_EXPECTED}, in UTF-8")


def parse_bytes(data: bytes, where: str) -> JsonRecord | Malformed:
    """One record; `where` it is stands at the beginning of the reason why it is malformed."""
    try:
        found = _record(_parse(data))
    except _NotJsonError as error:
        reason = str(error).removeprefix("line 1: ").replace("line 1 column", "column")
        return Malformed(f"{where}: not valid JSON: {reason}")
    return Malformed(f"{where}: {found.reason}") if isinstance(found, Malformed) else found


class _NotJsonError(Exception):
    """The reason why bytes are not JSON."""


def _read_bytes(path: str | pathlib.Path) -> bytes:
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise OlaError(
            f"{path}: cannot be read ({error.strerror}); expected a JSON file of records"
        ) from error
    except (
        TypeError,
        ValueError,
        MemoryError,
    ) as error:  # not a path, NUL in it, or too large
        raise OlaError(f"{quote(path)}: cannot be read ({first_line(error)}); {_EXPECTED}") from error
    check_head(path, data)
    if not data.strip(b" \t\r\n\xef\xbb\xbf"):
        raise OlaError(f"{path}: the file is empty; {_EXPECTED}")
    return data


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _NotJsonError(f"line {line}: byte {data[error.start]:#04x} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _NotJsonError(str(error)) from error
    except RecursionError as error:
        raise _NotJsonError("brackets are nested too deeply") from error
    except (ValueError, MemoryError) as error:  # a number with too many digits, or a file too large
        raise _NotJsonError(first_line(error)) from error


def _record(element: object) -> JsonRecord | Malformed:
    if isinstance(element, dict | Malformed):
        return element
    return Malformed(f"expected a JSON object, found {_name(element)}")


def _object(pairs: list[tuple[str, Any]]) -> JsonRecord | Malformed:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    keys = [key for key, _ in pairs]
    duplicate = next(key for number, key in enumerate(keys) if key in keys[:number])
    return Malformed(f"key {quote(duplicate)} occurs twice; remove one")


def _is_json_lines(data: bytes) -> bool:
    """True if the first line alone is an object."""
    try:
        return isinstance(_parse(data.split(b"\n", 1)[0]), dict)
    except _NotJsonError:
        return False


def _name(value: object) -> str:
    return "an object" if isinstance(value, dict) else type(value).__name__
