"""Checks that a sample has room for an answer after its media; before they are decoded, if possible."""

import functools
from collections.abc import Sequence

import numpy as np

from ola_jax.config import PixelLimits
from ola_jax.data.chat import AUDIO_ID, IMAGE_ID, Conversation
from ola_jax.data.failures import TooLargeError
from ola_jax.data.image import view_sizes
from ola_jax.data.layout import Grid, image_rows


def check_room(text: Conversation, media_tokens: Sequence[int], max_length: int) -> None:
    """Raises TooLargeError unless a token of an answer is among the first `max_length` tokens.

    `media_tokens` are the numbers of tokens of the media, visuals first; unknown ones at the end may be left
    out, and count as 0.
    """
    first = int(np.argmax(text.answers)) if text.answers.any() else len(text.ids)
    before = text.ids[:first]
    placeholders = int(((before == IMAGE_ID) | (before == AUDIO_ID)).sum())
    length = first - placeholders + sum(media_tokens[:placeholders])
    if length >= max_length:
        raise TooLargeError(
            f"at least {length} tokens come before the first answer and max_length is {max_length}: no token "
            "of an answer remains; shorten the media or the question, or raise max_length"
        )


def image_tokens(
    sizes: Sequence[tuple[int, int]], limits: PixelLimits, patch_size: int, side: int = 2
) -> list[int]:
    """The minimum number of tokens of each image of these widths and heights, in pixels.

    `side`: the model's `token_side`.
    """
    count = functools.partial(_tokens, limits=limits, block=2 * patch_size, side=side)
    # Decoding may turn an image upright: the smaller number of both orientations.
    return [min(count(size), count(size[::-1])) for size in sizes]


def may_exceed(images: int, limits: PixelLimits, room: int, side: int = 2) -> bool:
    """True if this many images of ordinary shape may have `room` tokens or more."""
    line = 2 * limits.high_res_max_side // (side * limits.image_multiple) + 1  # a newline ends it
    return images * 2 * line**2 >= room


def _tokens(size: tuple[int, int], *, limits: PixelLimits, block: int, side: int) -> int:
    """Tokens of an image of this width and height, in pixels; `block` is the side of two patches."""
    views = view_sizes(size, limits)
    grids: list[Grid] = [(2 * (height // block), 2 * (width // block)) for width, height in views]
    return len(image_rows([0] * len(grids), grids, 0, side))
