"""The packing plan: which records share a row, a pure function of seed, sizes of records, budget and weights.

Nothing is decoded for it. The stream of records is cut into segments, which are packed independently; so any
row can be found, and no row mixes two epochs.
"""

import bisect
import dataclasses
import fractions
import math
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ola_jax.data.index import Index, concatenate
from ola_jax.data.packing import PackedRows, pack
from ola_jax.row import Budget

PLAN_VERSION = 1  # another plan of the same data has another number
SEGMENT = 2**16  # records that are packed together
_KEPT = 4  # planned segments in memory
_RECORDS, _BLOCKS, _ROWS = range(3)  # what is shuffled, as part of the key


def random_order(count: int, *, seed: int, kind: int, number: int, source: int = 0) -> Int[np.ndarray, "_"]:
    """A random permutation that depends on the key alone: on no machine, nor version of numpy."""
    bits = np.random.Philox(np.random.SeedSequence((seed, kind, number, source))).random_raw(count)
    return np.argsort(bits, kind="stable")


class RowPlan:
    """The rows of a run by number: the records of each, as (source, record).

    Without weights, an epoch shuffles all sources together, and its rows follow those of the epoch before.
    With weights, blocks of records are packed, to which source i contributes its share from its own epochs
    without end; with `epochs` they end when the first source has been used so often.
    """

    def __init__(
        self,
        indices: Sequence[Index],
        usable: Sequence[Int[np.ndarray, "_"]],
        budget: Budget,
        *,
        seed: int,
        weights: Sequence[float] | None = None,
        epochs: int | None = None,
    ) -> None:
        self._indices, self._budget, self._seed = indices, budget, seed
        if weights is None:
            self._stream: _Shuffled | _Mixed = _Shuffled(usable, seed, epochs)
        else:
            self._stream = _Mixed(usable, seed, epochs, weights)
        self._first = [0]  # row of each segment planned so far, and of the one after
        self._planned: dict[int, _Segment] = {}
        self._lock = threading.Lock()  # many threads read rows

    def row(self, number: int) -> tuple[tuple[int, int], ...]:
        """The records of a row, as (source, record). Raises IndexError after the last row."""
        with self._lock:
            while number >= self._first[-1]:
                if not self._plan(len(self._first) - 1):
                    raise IndexError(f"row {number} of {self._first[-1]}")
            segment = bisect.bisect_right(self._first, number) - 1
            if segment not in self._planned:
                self._plan(segment)
            planned = self._planned[segment]
            records = planned.rows.row(number - self._first[segment])
            keys = planned.sources[records], planned.records[records]
            return tuple(zip(*(key.tolist() for key in keys), strict=True))

    def count_rows(self) -> int:
        """The number of all rows of a plan with `epochs`."""
        with self._lock:
            while self._plan(len(self._first) - 1):
                pass
            return self._first[-1]

    def _plan(self, segment: int) -> bool:
        """Plans a segment; False if there is none."""
        found = self._stream.segment(segment)
        if found is None:
            return False
        sources, records = found
        by_source = np.argsort(sources, kind="stable")
        parts = [index.take(records[sources == number]) for number, index in enumerate(self._indices)]
        inverse = np.empty_like(by_source)
        inverse[by_source] = np.arange(len(by_source))
        rows = pack(concatenate(parts).take(inverse), self._budget)
        rows = rows.reordered(random_order(len(rows), seed=self._seed, kind=_ROWS, number=segment))
        if segment == len(self._first) - 1:
            self._first.append(self._first[-1] + len(rows))
        while len(self._planned) >= _KEPT:
            del self._planned[next(iter(self._planned))]
        self._planned[segment] = _Segment(sources, records, rows)
        return True


@dataclasses.dataclass(frozen=True, eq=False)
class _Segment:
    """Records that are packed together, as source and number in it, and their rows."""

    sources: Int[np.ndarray, "n"]
    records: Int[np.ndarray, "n"]
    rows: PackedRows


class _Shuffled:
    """Epochs of all sources together, each cut into segments of about equal length."""

    def __init__(self, usable: Sequence[Int[np.ndarray, "_"]], seed: int, epochs: int | None) -> None:
        self._sources = np.repeat(np.arange(len(usable), dtype=np.int32), [len(part) for part in usable])
        self._records = np.concatenate(usable)
        self._seed, self._epochs = seed, epochs
        self._parts = math.ceil(len(self._records) / SEGMENT)  # of an epoch
        self._order: tuple[int, Int[np.ndarray, n]] = (-1, np.zeros(0, np.int64))  # of an epoch

    def segment(self, number: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]] | None:
        epoch, part = divmod(number, self._parts)
        if self._epochs is not None and epoch >= self._epochs:
            return None
        if self._order[0] != epoch:
            self._order = (
                epoch,
                random_order(len(self._records), seed=self._seed, kind=_RECORDS, number=epoch),
            )
        count = len(self._records)
        chosen = self._order[1][part * count // self._parts : (part + 1) * count // self._parts]
        return self._sources[chosen], self._records[chosen]


class _Mixed:
    """Blocks to which each source contributes its share, from its own shuffled epochs."""

    def __init__(
        self,
        usable: Sequence[Int[np.ndarray, "_"]],
        seed: int,
        epochs: int | None,
        weights: Sequence[float],
    ) -> None:
        self._usable, self._seed = usable, seed
        self._shares = [fractions.Fraction(weight) for weight in weights]
        total = sum(self._shares)
        self._shares = [share / total for share in self._shares]
        # A block has about an epoch of small sources.
        self._length = min(SEGMENT, max(sum(map(len, usable)), 256))
        self._end = None
        if epochs is not None:
            ends = [epochs * len(part) / share for part, share in zip(usable, self._shares, strict=True)]
            self._end = math.floor(min(ends))
        self._orders: dict[tuple[int, int], Int[np.ndarray, n]] = {}

    def segment(self, number: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]] | None:
        first, last = number * self._length, (number + 1) * self._length
        if self._end is not None:
            last = min(last, self._end)
            if first >= last:
                return None
        ranges = [(math.floor(share * first), math.floor(share * last)) for share in self._shares]
        records = np.concatenate([self._take(source, *ends) for source, ends in enumerate(ranges)])
        sources = np.repeat(np.arange(len(ranges), dtype=np.int32), [last - first for first, last in ranges])
        order = random_order(len(records), seed=self._seed, kind=_BLOCKS, number=number)
        return sources[order], records[order]

    def _take(self, source: int, first: int, last: int) -> Int[np.ndarray, "_"]:
        """Records of the source's own stream, from `first` to before `last`."""
        usable = self._usable[source]
        parts = [usable[:0]]
        while first < last:
            epoch, start = divmod(first, len(usable))
            end = min(len(usable), start + last - first)
            parts.append(usable[self._order(source, epoch)[start:end]])
            first += end - start
        return np.concatenate(parts)

    def _order(self, source: int, epoch: int) -> Int[np.ndarray, "_"]:
        key = source, epoch
        if key not in self._orders:
            self._orders = {k: order for k, order in self._orders.items() if k[0] != source}
            self._orders[key] = random_order(
                len(self._usable[source]), seed=self._seed, kind=_RECORDS, number=epoch, source=source
            )
        return self._orders[key]
