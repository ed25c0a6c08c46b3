"""Placing samples into rows of a batch of fixed sizes."""

from collections.abc import Sequence

import numpy as np

from ola_jax.batch import PARTS, POOLED, TEXT, Budget, FeatureTable, OlaBatch, feature_table, padding
from ola_jax.config import OlaConfig
from ola_jax.data.layout import block_order, pooled_size
from ola_jax.data.sample import Sample
from ola_jax.data.windows import assign_windows


def needs(sample: Sample) -> dict[str, int]:
    """The room that a sample takes of each field of a budget, except windows of images."""
    return {"tokens": len(sample.tokens), "audio_chunks": len(sample.audio)}


def misfit(row: Sequence[Sample], budget: Budget) -> str | None:
    """The reason why these samples do not fit one row of this budget; None if they do."""
    tokens, chunks = sum(len(s.tokens) for s in row), sum(len(s.audio) for s in row)
    sizes = [len(image.patches) for s in row for image in s.images]
    if tokens > budget.tokens:
        return f"{tokens} tokens, a row holds {budget.tokens}"
    if chunks > budget.audio_chunks:
        return f"{chunks} audio chunks, a row holds {budget.audio_chunks}"
    if sizes and max(sizes) > budget.window_patches:
        return f"an image of {max(sizes)} patches, a window holds {budget.window_patches}"
    if sizes and (windows := assign_windows(sizes, budget.window_patches)[1]) > budget.windows:
        return f"{windows} windows of {budget.window_patches} patches, a row holds {budget.windows}"
    return None


def assemble(rows: Sequence[Sequence[Sample]], budget: Budget, config: OlaConfig) -> OlaBatch:
    """A batch (numpy leaves) with these samples in its rows, in order; an empty row is all padding.

    Raises ValueError for a row that does not fit the budget.
    """
    batch, table = padding(config, len(rows), budget), feature_table(config, budget)
    for number, row in enumerate(rows):
        if reason := misfit(row, budget):
            raise ValueError(f"row {number}: {reason}")
        _place(batch, number, row, table, config)
    return batch


def utilization(batch: OlaBatch, rows: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """Share of each budget that the samples of a batch use; none for a budget of 0."""
    used = batch.patch_image > 0
    chunks = sum(len(sample.audio) for row in rows for sample in row)
    counts = {
        "tokens": ((batch.segments > 0).sum(), batch.segments.size),
        "windows": (used.any(axis=-1).sum(), used[..., :1].size),
        "patches": (used.sum(), used.size),
        "audio_chunks": (chunks, batch.audio.shape[0] * batch.audio.shape[1]),
    }
    return {name: float(count / total) for name, (count, total) in counts.items() if total}


def _place(
    batch: OlaBatch, row: int, samples: Sequence[Sample], table: FeatureTable, config: OlaConfig
) -> None:
    """Writes these samples into a row, whose feature table is `table`."""
    _, windows, window_patches = batch.patch_image.shape
    images = [image for sample in samples for image in sample.images]
    starts, _ = assign_windows([len(image.patches) for image in images], window_patches)
    number_in_window = [0] * windows
    for image, (window, start) in zip(images, starts, strict=True):
        patches = row, window, slice(start, start + len(image.patches))
        number_in_window[window] += 1
        batch.patches[patches] = image.patches
        batch.patch_image[patches] = number_in_window[window]
        batch.patch_position[patches][:, :2] = np.stack(block_order(image.grid), axis=1)
        batch.patch_position[patches][:, 2:] = image.grid

    chunk_tokens = config.chunk_tokens
    begin = first_image = first_chunk = 0
    for segment, sample in enumerate(samples, start=1):
        end, last_chunk = begin + len(sample.tokens), first_chunk + len(sample.audio)
        tokens = row, slice(begin, end)
        batch.tokens[tokens] = sample.tokens
        batch.positions[tokens] = np.arange(end - begin)  # quirk M3
        batch.segments[tokens] = segment
        batch.targets[tokens] = sample.targets
        batch.audio[row, first_chunk:last_chunk] = sample.audio

        # For each row of the sample's own feature table, by part: its index within that part of the row's.
        moved = {
            "patches": [
                (window * window_patches + start) // POOLED + np.arange(pooled_size(image.grid))
                for image, (window, start) in zip(sample.images, starts[first_image:], strict=False)
            ],
            "audio": [np.arange(first_chunk * chunk_tokens, last_chunk * chunk_tokens)],
            "marks": [np.arange(table.marks)],
        }
        rows = np.concatenate([table.start(part) + each for part in PARTS for each in moved[part]])
        source = rows[np.maximum(sample.source, 0)]
        batch.source[tokens] = np.where(sample.source == TEXT, TEXT, source)
        begin, first_image, first_chunk = end, first_image + len(sample.images), last_chunk
