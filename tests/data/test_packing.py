"""Packing by sizes: what a row holds, how full rows are, and that short records do not come last."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ola_jax.data import packing
from ola_jax.data.index import Index, RecordSize, make_index
from ola_jax.data.packing import pack, too_large
from ola_jax.data.rows import misfit
from ola_jax.data.windows import assign_windows
from ola_jax.row import Budget

BUDGETS = [
    Budget(100),
    Budget(100, windows=1, window_patches=64),
    Budget(100, windows=3, window_patches=64),
    Budget(100, audio_chunks=5),
    Budget(100, windows=2, window_patches=64, audio_chunks=3),
    Budget(100, windows=0, window_patches=64, audio_chunks=1),
]
FRAMES = st.integers(9, 48).map(lambda n: [4] * n)
IMAGES = st.lists(st.integers(1, 17).map(lambda n: 4 * n), max_size=8) | FRAMES
SIZES = st.lists(st.tuples(st.integers(1, 110), st.integers(0, 6), IMAGES), max_size=60)


def index_of(sizes) -> Index:
    return make_index([RecordSize({"tokens": t, "audio_chunks": c}, tuple(p)) for t, c, p in sizes])


def pack_slowly(index: Index, budget: Budget, look_ahead: int) -> list[list[int]]:
    """What `pack` does, in a few lines and without arrays."""
    limits = [budget.tokens, budget.audio_chunks, budget.windows * budget.window_patches]
    room = lambda i: [int(index.tokens[i]), int(index.chunks[i]), int(index.images(i).sum())]
    share = lambda i: [size * 2**16 // max(limit, 1) for size, limit in zip(room(i), limits, strict=True)]
    demand = [sum(column) for column in zip(*map(share, range(len(index))), strict=True)]
    weights = [each * 255 // max(*demand, 1) + 1 for each in demand]
    fits = lambda row: misfit([index.size(i) for i in row], budget) is None
    rows, waiting, following = [], [], iter(range(len(index)))

    def wait():
        while len(waiting) < look_ahead and (i := next(following, None)) is not None:
            waiting.append(i)

    wait()
    while waiting:
        row = [waiting.pop(0)]
        wait()
        while True:
            free = [2**16 - sum(share(i)[field] for i in row) for field in range(3)]
            score = lambda i, free=free: sum(
                w * s * f for w, s, f in zip(weights, share(i), free, strict=True)
            )
            if not (able := [i for i in waiting if fits([*row, i])]):
                break
            best = max(able, key=lambda i, score=score: (score(i), -i))
            row.append(best)
            waiting.remove(best)
            wait()
        rows.append(sorted(row))
    return rows


@pytest.mark.parametrize("budget", BUDGETS)
@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, look_ahead=st.integers(1, 9))
def test_packing_is_that_of_a_slow_reference(budget, sizes, look_ahead):
    index = index_of(sizes)
    usable = [i for i in range(len(index)) if misfit([index.size(i)], budget) is None]
    assert sorted({*range(len(index))} - {*too_large(index, budget).tolist()}) == usable
    index = index.take(np.array(usable, np.int64))
    rows = pack(index, budget, look_ahead=look_ahead)
    found = [rows.row(number).tolist() for number in range(len(rows))]
    assert found == pack_slowly(index, budget, look_ahead)
    assert sorted(record for row in found for record in row) == list(range(len(index)))
    for row in found:
        assert misfit([index.size(record) for record in row], budget) is None
        patches = [size for record in row for size in index.images(record).tolist()]
        if patches:
            assert assign_windows(patches, budget.window_patches)[1] <= budget.windows


def realistic(count: int, seed: int = 0) -> Index:
    """Sizes of text 15, images 45, audio 20, video 15, video with audio 5 %, smaller than real ones."""
    rng = np.random.default_rng(seed)
    sizes = []
    for kind in rng.choice(5, count, p=[0.15, 0.45, 0.20, 0.15, 0.05]):
        text = int(np.exp(rng.normal(3.5, 0.8))) + 5
        sides = 2 * rng.integers(1, 9, 2)
        patches = (
            [36, int(sides.prod())] if kind == 1 else [64] * int(rng.choice([4, 8, 16])) if kind > 2 else []
        )
        chunks = int(rng.integers(1, 5)) if kind in (2, 4) else 0
        sizes.append((text + sum(patches) // 4 + 20 * chunks, chunks, patches))
    return index_of(sizes)


MIX = Budget(tokens=2048, windows=8, window_patches=512, audio_chunks=24)


def test_rows_are_full_and_no_kind_of_row_comes_last():
    index = realistic(20_000)
    rows = pack(index, MIX)
    firsts = rows.offsets[:-1]
    own = np.diff(np.concatenate([[0], np.cumsum(index.patches)])[index.image_offsets])
    tokens = np.add.reduceat(index.tokens[rows.records], firsts)
    patches = np.add.reduceat(own[rows.records], firsts)
    used = max(np.mean(tokens) / MIX.tokens, np.mean(patches) / (MIX.windows * MIX.window_patches))
    assert used > 0.95
    # A row begins with the record that has waited longest: none is left behind.
    assert (np.diff([records.min() for records in np.split(rows.records, firsts[1:])]) > 0).all()
    lengths = tokens / np.diff(rows.offsets)
    tenths = [part.mean() for part in np.array_split(lengths, 10)]
    error = lengths.std() / np.sqrt(len(lengths) / 10)
    assert np.abs(np.array(tenths) - lengths.mean()).max() < 4 * error


def test_a_package_that_cannot_be_written_is_compiled_all_the_same(tmp_path):
    """Neither beside the source nor in the user's folder."""
    file = tmp_path / "packing.py"
    file.write_text(pathlib.Path(packing.__file__).read_text())
    code = f"""
import importlib.util, os
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
spec = importlib.util.spec_from_file_location("packing", {str(file)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module._count_windows is not None)
"""
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout == "True\n"
