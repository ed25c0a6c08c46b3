"""Placing samples into rows of a batch of fixed sizes."""

from collections.abc import Sequence

import numpy as np

from ola_jax.batch import IGNORE, MARKS, TEXT, Budget, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.data.layout import block_order, pooled_size
from ola_jax.data.sample import Sample
from ola_jax.data.windows import lay_out


def misfit(row: Sequence[Sample], budget: Budget) -> str | None:
    """Why these samples do not fit one row of this budget; None if they do."""
    tokens, chunks = sum(len(s.tokens) for s in row), sum(len(s.audio) for s in row)
    sizes = [len(image.patches) for s in row for image in s.images]
    if tokens > budget.tokens:
        return f"{tokens} tokens, a row holds {budget.tokens}"
    if chunks > budget.audio_chunks:
        return f"{chunks} audio chunks, a row holds {budget.audio_chunks}"
    if sizes and max(sizes) > budget.window_patches:
        return f"an image of {max(sizes)} patches, a window holds {budget.window_patches}"
    if sizes and (windows := lay_out(sizes, budget.window_patches)[1]) > budget.windows:
        return f"{windows} windows of {budget.window_patches} patches, a row holds {budget.windows}"
    return None


def assemble(rows: Sequence[Sequence[Sample]], budget: Budget, config: OlaConfig) -> OlaBatch:
    """A batch (numpy leaves) with these samples in its rows, in order; an empty row is all padding.

    Every row must fit the budget (ValueError). Padding: segment 0, source TEXT, target IGNORE,
    patch_image 0, on a grid of 1x1 so that nothing is divided by zero.
    """
    length, windows, patches, chunks = (
        budget.tokens,
        budget.windows,
        budget.window_patches,
        budget.audio_chunks,
    )
    patch_bytes = 3 * config.vision.patch_size**2 if config.vision else 768
    count = len(rows)
    batch = OlaBatch(
        tokens=np.zeros((count, length), np.int32),
        positions=np.zeros((count, length), np.int32),
        segments=np.zeros((count, length), np.int32),
        targets=np.full((count, length), IGNORE, np.int32),
        source=np.full((count, length), TEXT, np.int32),
        patches=np.zeros((count, windows, patches, patch_bytes), np.uint8),
        patch_image=np.zeros((count, windows, patches), np.int32),
        patch_position=np.tile(np.array([0, 0, 1, 1], np.int32), (count, windows, patches, 1)),
        audio=np.zeros((count, chunks, config.chunk_samples), np.float32),
    )
    for number, row in enumerate(rows):
        if reason := misfit(row, budget):
            raise ValueError(f"row {number}: {reason}")
        _fill(batch, number, row, budget, config.chunk_tokens)
    return batch


def fill(batch: OlaBatch, audio_chunks: int) -> dict[str, float]:
    """Share of a batch's places that samples use, by budget; `audio_chunks` is the number in use."""
    used = batch.patch_image > 0
    counts = {
        "tokens": ((batch.segments > 0).sum(), batch.segments.size),
        "windows": (used.any(axis=-1).sum(), used[..., :1].size),
        "patches": (used.sum(), used.size),
        "audio_chunks": (audio_chunks, batch.audio.shape[0] * batch.audio.shape[1]),
    }
    return {name: float(real / places) for name, (real, places) in counts.items() if places}


def _fill(batch: OlaBatch, row: int, samples: Sequence[Sample], budget: Budget, chunk_tokens: int) -> None:
    window_features = budget.window_patches // 4
    audio_start = budget.windows * window_features
    marks_start = audio_start + budget.audio_chunks * chunk_tokens
    images = [image for sample in samples for image in sample.images]
    places, _ = lay_out([len(image.patches) for image in images], budget.window_patches)
    number_in_window = [0] * budget.windows
    for image, (window, start) in zip(images, places, strict=True):
        here = row, window, slice(start, start + len(image.patches))
        number_in_window[window] += 1
        batch.patches[here] = image.patches
        batch.patch_image[here] = number_in_window[window]
        batch.patch_position[here][:, :2] = np.stack(block_order(image.grid), axis=1)
        batch.patch_position[here][:, 2:] = image.grid

    begin = first_image = first_chunk = 0
    for segment, sample in enumerate(samples, start=1):
        end, last_chunk = begin + len(sample.tokens), first_chunk + len(sample.audio)
        here = row, slice(begin, end)
        batch.tokens[here] = sample.tokens
        batch.positions[here] = np.arange(end - begin)  # quirk M3
        batch.segments[here] = segment
        batch.targets[here] = sample.targets
        batch.audio[row, first_chunk:last_chunk] = sample.audio

        # Where each row of the sample's own feature table lies in the table of the batch row.
        table = [np.zeros(0, np.int64)]
        for image, (window, start) in zip(sample.images, places[first_image:], strict=False):
            table.append(window * window_features + start // 4 + np.arange(pooled_size(image.grid)))
        table.append(audio_start + np.arange(first_chunk * chunk_tokens, last_chunk * chunk_tokens))
        table.append(marks_start + np.arange(len(MARKS)))
        moved = np.concatenate(table)[np.maximum(sample.source, 0)]
        batch.source[here] = np.where(sample.source == TEXT, TEXT, moved)
        begin, first_image, first_chunk = end, first_image + len(sample.images), last_chunk
