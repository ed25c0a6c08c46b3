"""Files of JSON records in bounded memory: only the position of each record is kept."""

import dataclasses
import functools
import inspect
import itertools
import os
import weakref
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ola_jax.data import record_files
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.errors import OlaError, first_line, one_line, require, shortened

SMALL = 2**25  # bytes of a file that is read at once
BLOCK = 2**22  # bytes of a larger one that are searched at a time
_HEAD = 512  # bytes by which a format is recognized


def read_head(path: str) -> bytes:
    """The first bytes of a file. Raises OlaError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        name = shortened(one_line(str(path)), 200)
        raise OlaError(f"{name}: cannot be read ({reason}); expected a JSON file of records") from error


def open_json(path: str, small: int = SMALL) -> "list[JsonRecord | Malformed] | JsonTable":
    """The records of a JSON array or of JSON Lines, whichever the file contains.

    A file of more than `small` bytes is not kept in memory, and what is not JSON in it is found when its
    record is read. Raises OlaError for a file that is neither, and for an array that is cut off.
    """
    is_lines = path.lower().endswith(record_files.LINE_SUFFIXES) or _is_json_lines(path)
    if os.path.getsize(path) <= small:
        return record_files.load(path, is_lines=is_lines)
    record_files.check_head(path, read_head(path))
    return JsonTable.open(path, is_lines)


@dataclasses.dataclass(frozen=True, eq=False)
class JsonTable:
    """A large file of records; every record is read from the file when it is asked for."""

    path: str
    starts: np.ndarray  # int64[records], bytes
    lengths: np.ndarray  # uint32[records], bytes
    version: tuple[int, int]  # size in bytes, and time of the last change in ns

    @classmethod
    def open(cls, path: str, is_lines: bool) -> "JsonTable":
        """Finds the records of a file: its lines, or the elements of its array."""
        with open(path, "rb") as file:
            found = _lines(file) if is_lines else _elements(path, file)
        return cls(path, *found, _version(path))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        start, length = int(self.starts[index]), int(self.lengths[index])
        return record_files.parse_bytes(os.pread(self._file.number, length, start), f"byte {start}")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _file(self) -> "Descriptor":
        """The file, opened in this process. Raises OlaError if the file has changed."""
        try:
            if _version(self.path) == self.version:
                return Descriptor(self.path)
        except OSError as error:
            raise OlaError(f"{self.path}: cannot be read ({error.strerror})") from error
        raise OlaError(f"{self.path}: the file has changed since it was opened; start again")


class Descriptor:
    """An open file, closed with this object."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


def _version(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _is_json_lines(path: str) -> bool:
    """True for JSON Lines under another name: the first two lines are objects."""
    with open(path, "rb") as file:
        stripped = (line.strip(b" \t\r\n\xef\xbb\xbf") for line in iter(lambda: file.readline(SMALL), b""))
        first, second = itertools.islice(itertools.chain(filter(None, stripped), (b"", b"")), 2)
    if not first.startswith(b"{") or not second.startswith(b"{"):
        return False
    return isinstance(record_files.parse_bytes(first, "line 1"), dict)


def _blocks(file: BinaryIO) -> Iterator[tuple[int, np.ndarray]]:
    """The position and the bytes of each block of a file."""
    begin = 0
    while data := file.read(BLOCK):
        yield begin, np.frombuffer(data, np.uint8)
        begin += len(data)


def _lines(file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each line that is not blank."""
    ends = [np.flatnonzero(block == ord("\n")) + begin for begin, block in _blocks(file)]
    size = file.tell()
    stops = np.append(np.concatenate(ends), size)
    starts = np.append(0, stops[:-1] + 1)
    lengths = stops - starts
    kept = lengths > 0
    for index in np.flatnonzero(kept & (lengths < 16)).tolist():  # only a short line can be blank in practice
        line = os.pread(file.fileno(), int(lengths[index]), int(starts[index]))
        kept[index] = bool(line.strip(b" \t\r\n\xef\xbb\xbf"))
    return starts[kept].astype(np.int64), _checked_lengths(lengths[kept])


def _elements(path: str, file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each element of an array."""
    scan, state = _compiled_scan(), np.zeros(5, np.int64)
    found: list[np.ndarray] = []
    for begin, block in _blocks(file):
        spans = np.empty((len(block) // 2 + 2, 2), np.int64)
        count = scan(block, begin, state, spans)
        if count < 0:
            raise OlaError(f"{path}: not valid JSON: more text after the end of the array (byte {state[4]})")
        found.append(spans[:count].copy())
    if state[0] != -1:
        expected = "" if state[0] else "; expected a JSON array of records, or JSON Lines"
        raise OlaError(f"{path}: not valid JSON: the array does not end; the file may be cut off{expected}")
    spans = np.concatenate(found)
    return spans[:, 0].copy(), _checked_lengths(spans[:, 1] - spans[:, 0])


def _checked_lengths(lengths: np.ndarray) -> np.ndarray:
    if len(lengths) and lengths.max() >= 2**32:
        raise OlaError(
            f"record {int(lengths.argmax())} has {int(lengths.max())} bytes; expected less than 4 GB"
        )
    return lengths.astype(np.uint32)


@functools.cache
def _compiled_scan() -> Any:
    require("data", "numba")
    import numba  # only where it is needed: importing and compiling take a second

    return numba.njit(nogil=True)(inspect.unwrap(_scan))  # without the checks of types in tests


def _scan(block: np.ndarray, begin: int, state: np.ndarray, spans: np.ndarray) -> int:
    """The number of elements that end in a block of an array; `spans` receives their start and end.

    `state` is carried from block to block: the depth of brackets (-1 after the array), whether a string is
    open, whether the next character is escaped, the start of the current element plus 1, and the position of
    an error.
    """
    depth, in_string, escaped, start, _ = state
    count = 0
    for i in range(block.size):
        c = block[i]
        if in_string:
            if escaped:
                escaped = 0
            elif c == 92:  # \
                escaped = 1
            elif c == 34:  # "
                in_string = 0
            continue
        if c == 32 or c == 10 or c == 13 or c == 9:
            continue
        if depth == 0:
            if c == 91:  # [
                depth = 1
            elif c != 0xEF and c != 0xBB and c != 0xBF:  # a byte order mark
                state[4] = begin + i
                return -1
            continue
        if depth == -1:
            if c != 0xEF and c != 0xBB and c != 0xBF:
                state[4] = begin + i
                return -1
            continue
        if depth == 1 and (c == 44 or c == 93):  # , ]
            if start or c == 44:
                spans[count, 0] = start - 1 if start else begin + i
                spans[count, 1] = begin + i
                count += 1
            start = 0
            if c == 93:
                depth = -1
            continue
        if start == 0:
            start = begin + i + 1
        if c == 34:
            in_string = 1
        elif c == 91 or c == 123:  # [ {
            depth += 1
        elif (c == 93 or c == 125) and depth > 1:  # ] }
            depth -= 1
    state[0], state[1], state[2], state[3] = depth, in_string, escaped, start
    return count
