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
    images, offsets = index.patches.astype(np.int64), index.image_offsets.astype(np.int64)
    windows, window_patches = budget.windows, budget.window_patches
    rows, count = _pack(sizes, shares, weights, limit, images, offsets, windows, window_patches, look_ahead)
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
def _pack(sizes, shares, weights, limit, images, offsets, windows, window_patches, look_ahead):
    count, fields = sizes.shape
    rows = np.empty(count, np.int64)
    waiting, refused = np.empty(look_ahead, np.int64), np.empty(look_ahead, np.bool_)
    number_waiting = following = row = 0
    # Images of the row, of a record, and of both, from large to small.
    most = windows * window_patches // 4 + 1
    held, own, merged = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    used = np.empty(max(windows, 1), np.int64)
    free, free_share = np.empty(fields, np.int64), np.empty(fields, np.int64)
    while True:
        while number_waiting < look_ahead and following < count:
            waiting[number_waiting] = following
            number_waiting += 1
            following += 1
        if not number_waiting:
            return rows, row
        free[:], free_share[:], number_held = limit, _UNIT, 0
        refused[:] = False
        best = 0
        while best >= 0:
            record = waiting[best]
            first, last = offsets[record], offsets[record + 1]
            fits = True
            if last > first and windows > 1:
                number_own = last - first
                for i in range(number_own):  # sorted by insertion: they are few, or equal
                    size, at = images[first + i], i
                    while at > 0 and own[at - 1] < size:
                        own[at] = own[at - 1]
                        at -= 1
                    own[at] = size
                i = j = 0
                for at in range(number_held + number_own):
                    if j >= number_own or (i < number_held and held[i] >= own[j]):
                        merged[at] = held[i]
                        i += 1
                    else:
                        merged[at] = own[j]
                        j += 1
                used[:] = 0
                for at in range(number_held + number_own):
                    window = 0
                    while window < windows and used[window] + merged[at] > window_patches:
                        window += 1
                    if window == windows:
                        fits = False
                        break
                    used[window] += merged[at]
                if fits:
                    held, merged = merged, held
                    number_held += number_own
            if fits:
                rows[record] = row
                for field in range(fields):
                    free[field] -= sizes[record, field]
                    free_share[field] -= shares[record, field]
                number_waiting -= 1
                for i in range(best, number_waiting):
                    waiting[i], refused[i] = waiting[i + 1], refused[i + 1]
                if following < count:
                    waiting[number_waiting], refused[number_waiting] = following, False
                    number_waiting += 1
                    following += 1
            else:
                refused[best] = True
            best, best_score = -1, -1
            for i in range(number_waiting):
                if refused[i]:
                    continue
                record, score, room = waiting[i], 0, True
                for field in range(fields):
                    if sizes[record, field] > free[field]:
                        room = False
                        break
                    score += weights[field] * shares[record, field] * free_share[field]
                if room and score > best_score:
                    best, best_score = i, score
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
