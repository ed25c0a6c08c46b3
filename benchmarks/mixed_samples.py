"""Samples of all kinds, made up, of the sizes that real ones have: for benchmarks."""

from collections.abc import Sequence

import numpy as np

from ola_jax.batch import IGNORE, TEXT, Budget, FeatureTable
from ola_jax.config import OlaConfig
from ola_jax.data.layout import audio_rows, image_rows, pooled_size, video_rows
from ola_jax.data.rows import misfit, needs
from ola_jax.data.sample import ImagePatches, Sample

KINDS = ("text", "image", "video", "audio", "video_audio")
Grid = tuple[int, int]


def make(config: OlaConfig, scale: float, count: int, seed: int = 0) -> list[Sample]:
    """`count` samples, the kinds in turn, sizes random.

    At `scale` 1 they are Ola's: texts of 100 to 1000 tokens, images of 400 to 1500 pixels a side, videos of
    16 to 48 frames of about 400 pixels a side, sounds of up to 60 s. Sides shrink with the square root of
    `scale`, all else with it.
    """
    rng = np.random.default_rng(seed)
    return [_sample(config, KINDS[i % len(KINDS)], scale, rng) for i in range(count)]


def fill_rows(samples: Sequence[Sample], budget: Budget) -> list[list[Sample]]:
    """Each sample in the first row with room, the largest first."""
    rows: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: -len(s.tokens)):
        for row in rows:
            if misfit([needs(each) for each in [*row, sample]], budget) is None:
                row.append(sample)
                break
        else:
            if reason := misfit([needs(sample)], budget):
                raise ValueError(f"a sample fits no row: {reason}")
            rows.append([sample])
    return rows


def _sample(config: OlaConfig, kind: str, scale: float, rng: np.random.Generator) -> Sample:
    text = lambda: int(max(4, scale * np.exp(rng.uniform(np.log(100), np.log(1000)))))
    side = lambda low, high: 2 * max(1, round(scale**0.5 * rng.uniform(low, high) / 32))
    grids: list[Grid] = []
    if kind == "image":
        grids = [(side(380, 390), side(380, 390)), (side(400, 1500), side(400, 1500))]  # both views
    elif kind.startswith("video"):
        grid = side(300, 448), side(300, 448)
        grids = [grid] * max(2, round(scale * rng.integers(16, 49)))
    chunks = max(1, round(scale * rng.integers(1, 3))) if "audio" in kind else 0
    images = tuple(_image(config, grid, rng) for grid in grids)
    starts = np.cumsum([0, *map(pooled_size, grids)])
    marks = FeatureTable(int(starts[-1]), chunks * config.chunk_tokens).start("marks")
    media = []
    if kind == "image":
        media.append(image_rows((int(starts[0]), int(starts[1])), (grids[0], grids[1]), marks))
    elif grids:
        media.append(video_rows(starts[:-1].tolist(), grids[0], marks))
    if chunks:
        media.append(audio_rows(int(starts[-1]), chunks, chunk_tokens=config.chunk_tokens, marks=marks))
    question, answer = text(), text()
    source = np.concatenate([*media, np.full(question + answer, TEXT)]).astype(np.int32)
    length = len(source)
    tokens = rng.integers(0, config.llm.vocab_size, length).astype(np.int32)
    labelled = np.arange(1, length + 1) >= length - answer  # of the next place
    labelled[-1] = False
    return Sample(
        id=kind,
        tokens=tokens,
        targets=np.where(labelled, np.append(tokens[1:], 0), IGNORE).astype(np.int32),
        source=source,
        images=images,
        audio=(0.1 * rng.normal(size=(chunks, config.chunk_samples))).astype(np.float32),
        prompt_ids=np.zeros(0, np.int32),
        counts={},
    )


def _image(config: OlaConfig, grid: Grid, rng: np.random.Generator) -> ImagePatches:
    size = grid[0] * grid[1], config.vision.patch_bytes
    return ImagePatches(rng.integers(0, 256, size, dtype=np.uint8), grid)
