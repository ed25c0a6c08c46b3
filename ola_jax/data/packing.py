"""Packing by sizes: several records share one row of a batch. Nothing is decoded for it."""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Int

from ola_jax.data.index import Index
from ola_jax.row import Budget, count_limits

LOOK_AHEAD = 64  # records that wait for a row
_UNIT = 2**16  # a full row, in whole numbers: the same on every machine
_PART = 2**20  # records that are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class PackedRows:
    """Records packed into rows."""

    offsets: Int[np.ndarray, "rows_plus_1"]
    records: Int[np.ndarray, "n"]  # row i has records[offsets[i] : offsets[i + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> Int[np.ndarray, "_"]:
        """The records of a row."""
        return self.records[self.offsets[number] : self.offsets[number + 1]]

    def reordered(self, order: Int[np.ndarray, "rows"]) -> "PackedRows":
        """The same rows in another order."""
        lengths = np.diff(self.offsets)[order]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        where = np.repeat(self.offsets[order] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PackedRows(offsets, self.records[where])


def compile_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by numba when it is first called; kept on disk where a folder can be written."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function)


def pack(index: Index, budget: Budget, *, look_ahead: int = LOOK_AHEAD) -> PackedRows:
    """Packs all records of an index, each of which fits a row, in about this order.

    A row begins with the record that has waited longest. From those that wait, at most `look_ahead`, it then
    takes the one that fills best what is free of it, until none has room. The images of a row are assigned
    to windows as by `windows.assign_windows`.
    """
    limits = count_limits(budget)
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(index.patches, dtype=np.int64)])
    patches = totals[index.image_offsets[1:]] - totals[index.image_offsets[:-1]]
    sizes = np.stack([*(index.column(field) for field in limits), patches], axis=1).astype(np.int64)
    limit = np.array([*limits.values(), budget.windows * budget.window_patches], np.int64)
    shares = sizes * _UNIT // np.maximum(limit, 1)
    demand = shares.sum(axis=0, dtype=np.int64)
    weights = demand * 255 // max(int(demand.max(initial=0)), 1) + 1
    offsets = index.image_offsets.astype(np.int64)
    rows, count = _pack(
        sizes.astype(np.float64),
        (shares * weights).astype(np.float64),
        shares.astype(np.float64),
        limit.astype(np.float64),
        *_runs(index.patches.astype(np.int64), offsets),
        budget.windows,
        budget.window_patches,
        look_ahead,
    )
    order = np.argsort(rows, kind="stable")  # within a row: the order of the index
    return PackedRows(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=count))]), order
    )


def count_windows(index: Index, rows: PackedRows, budget: Budget) -> Int[np.ndarray, "rows"]:
    """The windows of each row of an index that are used."""
    part = index.take(rows.records)
    offsets = part.image_offsets[rows.offsets]
    return _count_windows(part.patches.astype(np.int64), offsets, budget.windows, budget.window_patches)


def too_large(index: Index, budget: Budget) -> Int[np.ndarray, "_"]:
    """The records that do not fit a row of this budget."""
    large = np.zeros(len(index), bool)
    for field, limit in count_limits(budget).items():
        large |= index.column(field) > limit
    for start in range(0, len(index), _PART):  # patches may be mapped, and many
        part = index[start : start + _PART]
        images, offsets = part.patches.astype(np.int64), part.image_offsets.astype(np.int64)
        needed = _count_windows(images, offsets, budget.windows, budget.window_patches)
        large[start : start + _PART] |= needed > budget.windows
    return np.flatnonzero(large)


@compile_function
@no_type_check
def _runs(images, offsets):
    """The images of each record from large to small, as runs of equal ones: offsets, sizes and numbers."""
    sizes, numbers = np.empty(len(images), np.int64), np.empty(len(images), np.int64)
    starts = np.empty(len(offsets), np.int64)
    own = np.empty(16, np.int64)
    count = 0
    for record in range(len(offsets) - 1):
        starts[record] = count
        first, last = offsets[record], offsets[record + 1]
        if last - first > len(own):
            own = np.empty(2 * (last - first), np.int64)
        for i in range(last - first):  # sorted by insertion: they are few, or equal
            size, at = images[first + i], i
            while at > 0 and own[at - 1] < size:
                own[at] = own[at - 1]
                at -= 1
            own[at] = size
        for i in range(last - first):
            if i and own[i] == own[i - 1]:
                numbers[count - 1] += 1
            else:
                sizes[count], numbers[count] = own[i], 1
                count += 1
    starts[-1] = count
    return starts, sizes[:count], numbers[:count]


@compile_function
@no_type_check
def _pack(
    sizes,  # float64, like all that is computed with here: whole numbers below 2**53, so exact
    weighted,  # shares of a full row, times the weight of their field
    shares,
    limit,
    run_starts,
    run_sizes,
    run_numbers,
    windows,
    window_patches,
    look_ahead,
):
    count, fields = sizes.shape
    rows = np.empty(count, np.int64)
    # Of the records that wait, the oldest first: number, True if the row has no window for it, sizes, scores.
    waiting, refused = np.empty(look_ahead, np.int64), np.empty(look_ahead, np.bool_)
    need, value = np.empty((fields, look_ahead)), np.empty((fields, look_ahead))
    score = np.empty(look_ahead)
    number_waiting = following = row = 0
    # Runs of images of the row, and of the row with a record, from large to small.
    most = windows * window_patches + 1
    held_sizes, held_numbers = np.empty(most, np.int64), np.empty(most, np.int64)
    merged_sizes, merged_numbers = np.empty(most, np.int64), np.empty(most, np.int64)
    used = np.empty(max(windows, 1), np.int64)
    free, free_share = np.empty(fields), np.empty(fields)
    while True:
        while number_waiting < look_ahead and following < count:
            waiting[number_waiting] = following
            for field in range(fields):
                need[field, number_waiting] = sizes[following, field]
                value[field, number_waiting] = weighted[following, field]
            number_waiting += 1
            following += 1
        if not number_waiting:
            return rows, row
        free[:], free_share[:], held = limit, _UNIT, 0
        refused[:] = False
        best = 0
        while best >= 0:
            record = waiting[best]
            first, last = run_starts[record], run_starts[record + 1]
            fits = True
            if last > first and windows > 1:
                i, j, merged = 0, first, 0
                used[:] = 0
                while i < held or j < last:
                    if j >= last or (i < held and held_sizes[i] > run_sizes[j]):
                        size, number = held_sizes[i], held_numbers[i]
                        i += 1
                    elif i >= held or held_sizes[i] < run_sizes[j]:
                        size, number = run_sizes[j], run_numbers[j]
                        j += 1
                    else:
                        size, number = held_sizes[i], held_numbers[i] + run_numbers[j]
                        i += 1
                        j += 1
                    merged_sizes[merged], merged_numbers[merged] = size, number
                    merged += 1
                    for window in range(windows):  # first fit
                        if used[window] + size <= window_patches:
                            more = min(number, (window_patches - used[window]) // size)
                            used[window] += more * size
                            number -= more
                            if not number:
                                break
                    if number:
                        fits = False
                        break
                if fits:
                    held_sizes, merged_sizes = merged_sizes, held_sizes
                    held_numbers, merged_numbers = merged_numbers, held_numbers
                    held = merged
            if fits:
                rows[record] = row
                for field in range(fields):
                    free[field] -= sizes[record, field]
                    free_share[field] -= shares[record, field]
                number_waiting -= 1
                for i in range(best, number_waiting):
                    waiting[i], refused[i] = waiting[i + 1], refused[i + 1]
                for field in range(fields):
                    for i in range(best, number_waiting):
                        need[field, i], value[field, i] = need[field, i + 1], value[field, i + 1]
                if following < count:
                    waiting[number_waiting], refused[number_waiting] = following, False
                    for field in range(fields):
                        need[field, number_waiting] = sizes[following, field]
                        value[field, number_waiting] = weighted[following, field]
                    number_waiting += 1
                    following += 1
            else:
                refused[best] = True
            score[:] = 0.0
            for field in range(fields):
                left, share = free[field], free_share[field]
                for i in range(number_waiting):
                    score[i] += value[field, i] * share if need[field, i] <= left else -np.inf
            best, best_score = -1, -1.0
            for i in range(number_waiting):
                if score[i] > best_score and not refused[i]:
                    best, best_score = i, score[i]
        row += 1


@compile_function
@no_type_check
def _count_windows(images, offsets, windows, window_patches):
    """The windows that the images of each record need; one too many if they need more than there are."""
    needed = np.zeros(len(offsets) - 1, np.int64)
    used = np.empty(windows + 1, np.int64)
    for record in range(len(offsets) - 1):
        own = images[offsets[record] : offsets[record + 1]]
        if not len(own):
            continue
        smallest = largest = total = own[0]
        for i in range(1, len(own)):
            smallest, largest, total = min(smallest, own[i]), max(largest, own[i]), total + own[i]
        if total <= window_patches:
            needed[record] = 1
            continue
        if smallest == largest:  # the frames of a video
            together = window_patches // largest
            needed[record] = min(-(-len(own) // together), windows + 1) if together else windows + 1
            continue
        used[:] = 0
        sizes = np.sort(own)
        for i in range(len(sizes) - 1, -1, -1):
            window = 0
            while window < windows and used[window] + sizes[i] > window_patches:
                window += 1
            used[window] += sizes[i]
            needed[record] = max(needed[record], window + 1)
    return needed
