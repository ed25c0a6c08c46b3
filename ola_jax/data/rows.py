"""Rows of a batch: whether samples fit into one, and placing them there. It does not import JAX."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from ola_jax.config import OlaConfig
from ola_jax.data.index import RecordSize
from ola_jax.data.layout import block_order, pooled_size
from ola_jax.data.sample import Sample
from ola_jax.data.windows import assign_windows
from ola_jax.row import PARTS, TEXT, Budget, FeatureTable, count_limits, feature_table, padding_row

RowFields = dict[str, Shaped[np.ndarray, "..."]]  # the fields of OlaBatch, of one row


def needs(sample: Sample) -> RecordSize:
    """The room that a sample takes in a row."""
    counts = {"tokens": len(sample.tokens), "audio_chunks": len(sample.audio)}
    return RecordSize(counts, tuple(len(image.patches) for image in sample.images))


def misfit(sizes: Sequence[RecordSize], budget: Budget) -> str | None:
    """The reason why samples of these sizes do not fit one row of this budget; None if they do."""
    for field, limit in count_limits(budget).items():
        if (count := sum(size.counts.get(field, 0) for size in sizes)) > limit:
            return f"{count} {field.replace('_', ' ')}, a row holds {limit}"
    patches = [image for size in sizes for image in size.patches]
    if patches and max(patches) > budget.window_patches:
        return f"an image of {max(patches)} patches, a window holds {budget.window_patches}"
    if patches and (windows := assign_windows(patches, budget.window_patches)[1]) > budget.windows:
        return f"{windows} windows of {budget.window_patches} patches, a row holds {budget.windows}"
    return None


def assemble_row(
    samples: Sequence[Sample | None], sizes: Sequence[RecordSize], budget: Budget, config: OlaConfig
) -> RowFields:
    """The fields of a row with these samples, in order.

    None is a hole: the other samples are where they were if there was a sample of its size. Raises
    ValueError if the row does not fit the budget.
    """
    if reason := misfit(sizes, budget):
        raise ValueError(reason)
    row = padding_row(config, budget)
    _place(row, samples, sizes, feature_table(config, budget), config)
    return row


def row_use(row: Mapping[str, Shaped[np.ndarray, "..."]], samples: Sequence[Sample | None]) -> dict[str, int]:
    """The room that the samples of a row use: of each field of a budget, and patches."""
    used = row["patch_image"] > 0
    counts: collections.Counter[str] = collections.Counter()
    for sample in samples:
        if sample is not None:
            counts.update(needs(sample).counts)
    return dict(counts) | {"windows": int(used.any(axis=-1).sum()), "patches": int(used.sum())}


def utilization(uses: Sequence[Mapping[str, int]], budget: Budget) -> dict[str, float]:
    """Share of each budget that rows with this use take; none for a budget of 0."""
    patches = budget.windows * budget.window_patches
    limits = count_limits(budget) | {"windows": budget.windows, "patches": patches}
    return {
        name: sum(use.get(name, 0) for use in uses) / (len(uses) * limit)
        for name, limit in limits.items()
        if limit
    }


def _place(
    row: RowFields,
    samples: Sequence[Sample | None],
    sizes: Sequence[RecordSize],
    table: FeatureTable,
    config: OlaConfig,
) -> None:
    """Writes these samples into a row, whose feature table is `table`."""
    windows, window_patches = row["patch_image"].shape
    planned = [image for size in sizes for image in size.patches]
    places = iter(assign_windows(planned, window_patches)[0])
    number_in_window = [0] * windows
    chunk_tokens, side = config.chunk_tokens, config.token_side
    begin = first_chunk = segment = 0
    for sample, size in zip(samples, sizes, strict=True):
        starts = [next(places) for _ in size.patches]
        if sample is None:
            continue
        for image, (window, start) in zip(sample.images, starts, strict=True):
            patches = window, slice(start, start + len(image.patches))
            number_in_window[window] += 1
            row["patches"][patches] = image.patches
            row["patch_image"][patches] = number_in_window[window]
            row["patch_position"][patches][:, :2] = np.stack(block_order(image.grid), axis=1)
            row["patch_position"][patches][:, 2:] = image.grid

        segment += 1
        end, last_chunk = begin + len(sample.tokens), first_chunk + len(sample.audio)
        tokens = slice(begin, end)
        row["tokens"][tokens] = sample.tokens
        row["positions"][tokens] = np.arange(end - begin)  # quirk M3
        row["segments"][tokens] = segment
        row["targets"][tokens] = sample.targets
        row["audio"][first_chunk:last_chunk] = sample.audio

        # For each row of the sample's own feature table, by part: its index within that part of the row's.
        moved = {
            "patches": [
                (window * window_patches + start) // side**2 + np.arange(pooled_size(image.grid, side))
                for image, (window, start) in zip(sample.images, starts, strict=True)
            ],
            "audio": [np.arange(first_chunk * chunk_tokens, last_chunk * chunk_tokens)],
            "marks": [np.arange(table.marks)],
        }
        rows = np.concatenate([table.start(part) + each for part in PARTS for each in moved[part]])
        source = rows[np.maximum(sample.source, 0)]
        row["source"][tokens] = np.where(sample.source == TEXT, TEXT, source)
        begin, first_chunk = end, last_chunk
