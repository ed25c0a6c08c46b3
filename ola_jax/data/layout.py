"""Feature table rows that images, videos and audio become, marks included.

Source: `OlaMLP.forward` and `EncoderProjectorConcat.forward` of the original.
"""

from collections.abc import Sequence

import numpy as np

from ola_jax.row import mark_rows
from ola_jax.typing import HostArray, Int

Grid = tuple[int, int]  # height and width of an image in patches


def image_rows(
    starts: Sequence[int], grids: Sequence[Grid], marks: int, side: int = 2
) -> Int[HostArray, "rows"]:
    """An image: begin, rows of the low-resolution view, sep, rows of the high-resolution view, end.

    `starts`: the first feature of either view; `grids`: their sizes in patches; `marks`: the table
    row of the first mark; `side`: the model's `token_side`. Every row of features is followed by a newline
    (quirk V10). With the high-resolution view alone there is no sep.
    """
    row = mark_rows(marks)
    *low, high = (
        _lines(start, grid, row["image_newline"], side) for start, grid in zip(starts, grids, strict=True)
    )
    begin, sep, end = ([row[name]] for name in ("image_begin", "image_sep", "image_end"))
    return np.concatenate([begin, *([*low, sep] if low else []), high, end]).astype(np.int32)


def video_rows(starts: Sequence[int], grid: Grid, marks: int, side: int = 2) -> Int[HostArray, "rows"]:
    """A video: begin, then for each frame its rows and a sep, then end."""
    row = mark_rows(marks)
    lines = [_lines(start, grid, row["image_newline"], side) for start in starts]
    frames = [np.append(line, row["image_sep"]) for line in lines]
    return np.concatenate([[row["image_begin"]], *frames, [row["image_end"]]]).astype(np.int32)


def audio_rows(start: int, chunks: int, *, chunk_tokens: int, marks: int) -> Int[HostArray, "rows"]:
    """Audio: begin, the tokens of each chunk followed by a newline, end; one block (quirk M2)."""
    row = mark_rows(marks)
    tokens = start + np.arange(chunks * chunk_tokens).reshape(chunks, chunk_tokens)
    lines = np.append(tokens, np.full((chunks, 1), row["speech_newline"]), axis=1).ravel()
    return np.concatenate([[row["speech_begin"]], lines, [row["speech_end"]]]).astype(np.int32)


def pooled_size(grid: Grid, side: int = 2) -> int:
    """Features that an image of this grid becomes: one for each square of `side` patches."""
    return grid[0] * grid[1] // side**2


def block_order(grid: Grid) -> tuple[Int[HostArray, "n"], Int[HostArray, "n"]]:
    """Row and column of every patch of a grid, in 2x2-block order."""
    row, column = np.divmod(np.arange(grid[0] * grid[1], dtype=np.int32).reshape(grid), grid[1])
    order = lambda x: x.reshape(grid[0] // 2, 2, grid[1] // 2, 2).transpose(0, 2, 1, 3).ravel()
    return order(row), order(column)


def _lines(start: int, grid: Grid, newline: int, side: int) -> Int[HostArray, "rows"]:
    height, width = grid[0] // side, grid[1] // side
    features = start + np.arange(height * width).reshape(height, width)
    if side == 1:  # the features of patches are stored in block order
        features[block_order(grid)] = features.ravel().copy()
    return np.append(features, np.full((height, 1), newline), axis=1).ravel()
