"""Speed of the packing plan and how full its rows are, on sizes as those of Ola's data.

Text 15, image 45, audio 20, video 15, video with audio 5 %; sizes are made up, nothing is decoded. Times are
CPU seconds of one core.
"""

import argparse
import resource
import time

import numpy as np

from ola_jax.data.index import KINDS, Index
from ola_jax.data.packing import count_windows, pack, too_large
from ola_jax.data.plan import SEGMENT, RowPlan
from ola_jax.data.rows import utilization
from ola_jax.row import Budget, count_limits

BUDGETS = (
    Budget(16_384, windows=4, window_patches=9216, audio_chunks=16),
    Budget(16_384, windows=5, window_patches=9216, audio_chunks=8),
    Budget(16_384, windows=8, window_patches=9216, audio_chunks=16),
    Budget(32_768, windows=9, window_patches=9216, audio_chunks=16),
)
SHARES = {"text": 0.15, "image": 0.45, "audio": 0.20, "video": 0.15, "video with audio": 0.05}
FRAME_GRIDS = np.array([12 * 20, 14 * 26, 18 * 32, 16 * 16])  # patches of a frame
MOST_TOKENS = 16_384


def make_index(count: int, seed: int = 0) -> Index:
    """Sizes of so many records."""
    rng = np.random.default_rng(seed)
    numbers = [KINDS.index(kind) for kind in SHARES]
    kinds = rng.choice(numbers, count, p=list(SHARES.values())).astype(np.uint8)
    is_kind = lambda *names: np.isin(kinds, [KINDS.index(name) for name in names])
    tokens = np.minimum(np.exp(rng.normal(5.3, 0.9, count)), 3000).astype(np.int64) + 20

    sides = np.minimum(np.exp(rng.normal(6.4, 0.5, (count, 2))), 1536)  # pixels
    grid = lambda pixels: np.maximum(2 * np.round(pixels / 32), 2).astype(np.int64)
    low = grid(sides * np.sqrt(384**2 / sides.prod(axis=1))[:, None]).prod(axis=1)
    high = grid(sides).prod(axis=1)
    frames = rng.choice([16, 32, 48, 64], count)
    frame = FRAME_GRIDS[rng.integers(0, len(FRAME_GRIDS), count)]

    images = np.zeros(count, np.int64)
    images[is_kind("image")] = 2
    videos = is_kind("video", "video with audio")
    images[videos] = frames[videos]
    offsets = np.concatenate([[0], np.cumsum(images)])
    patches = np.repeat(frame, images).astype(np.int32)
    pictures = is_kind("image")
    patches[offsets[:-1][pictures]], patches[offsets[:-1][pictures] + 1] = low[pictures], high[pictures]
    totals = np.concatenate([[0], np.cumsum(patches, dtype=np.int64)])
    chunks = np.where(is_kind("audio", "video with audio"), np.minimum(1 + rng.exponential(1.0, count), 8), 0)
    chunks = chunks.astype(np.int64)
    tokens += (totals[offsets[1:]] - totals[offsets[:-1]]) // 4 + 8 * images + 151 * chunks
    tokens = np.minimum(tokens, MOST_TOKENS)
    counts = np.stack([tokens, chunks], axis=1).astype(np.int32)
    return Index(("tokens", "audio_chunks"), counts, offsets, patches, kinds, {})


def report(index: Index, budget: Budget) -> None:
    """Prints a line of the table."""
    usable = np.setdiff1d(np.arange(len(index)), too_large(index, budget))
    parts = [index.take(usable[start : start + SEGMENT]) for start in range(0, len(usable), SEGMENT)]
    begin = time.process_time()
    packed = [pack(part, budget) for part in parts]
    seconds = time.process_time() - begin
    rows = sum(map(len, packed))
    total = lambda values: int(sum(each.sum(dtype=np.int64) for each in values))
    use = {field: total([part.column(field) for part in parts]) for field in count_limits(budget)}
    use["patches"] = total([part.patches for part in parts])
    use["windows"] = total([count_windows(*both, budget) for both in zip(parts, packed, strict=True)])
    mean = utilization([use, *[{}] * (rows - 1)], budget)
    sizes = f"{budget.tokens} {budget.windows}x{budget.window_patches} {budget.audio_chunks}"
    shares = " | ".join(f"{mean[name]:.1%}" for name in ("tokens", "windows", "patches", "audio_chunks"))
    left_out = 1 - len(usable) / len(index)
    print(
        f"| {sizes} | {len(usable) / rows:.1f} | {left_out:.1%} | {shares} | "
        f"{len(usable) / seconds / 1e6:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    index = make_index(count)
    pack(index[:100], BUDGETS[-1])  # compiles
    too_large(index[:100], BUDGETS[-1])
    print("| L WxN C | samples a row | too large | tokens | windows | patches | chunks | M samples/s |")
    print("|---|---|---|---|---|---|---|---|")
    for budget in BUDGETS:
        report(index, budget)
    begin = time.process_time()
    fits = np.ones(count, bool)
    fits[too_large(index, BUDGETS[1])] = False
    usable = np.flatnonzero(fits)
    found = time.process_time()
    plan = RowPlan([index], [usable], BUDGETS[1], seed=0)
    plan.row(0)
    first = time.process_time()
    whole = RowPlan([index], [usable], BUDGETS[1], seed=0, epochs=1).count_rows()
    ended = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{count:,} records: those that fit found in {found - begin:.2f} s, the first row in")
    print(f"{first - found:.2f} s, all {whole:,} rows of an epoch in {ended - first:.2f} s; {memory:.2f} GiB")


if __name__ == "__main__":
    main()
