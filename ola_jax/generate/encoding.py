"""Media encoded part by part, in a few fixed sizes, into one table of features on the device."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.batch import MARKS
from ola_jax.config import OlaConfig
from ola_jax.data.layout import block_order
from ola_jax.data.sample import ImagePatches
from ola_jax.generate.encoding_images import encode_in_pieces
from ola_jax.models.ola import Ola
from ola_jax.typing import Array, Float, HostArray, Int, Params

# Patches of a call: squares, as images are; the smallest that holds an image is taken.
SIDES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def window_sizes(most: int) -> tuple[int, ...]:
    """The sizes that serve for images of up to `most` patches."""
    sizes = [side * side for side in SIDES]
    return tuple(size for size, smaller in zip(sizes, [0, *sizes], strict=False) if smaller < most)


def window_size(patches: int) -> int:
    """The size of the call that encodes so many patches."""
    return next((side * side for side in SIDES if side * side >= patches), -(-patches // 4) * 4)


def table_rows(config: OlaConfig, length: int) -> int:
    """Rows of a table for prompts of up to `length` tokens: padding of the last part has room too."""
    patches = config.token_side**2  # of a row
    largest = window_size(patches * length) // patches if config.vision else 0
    return len(MARKS) + length + max(largest, config.chunk_tokens)


@functools.partial(jax.jit, static_argnames=("model", "rows"))
def empty_table(model: Ola, params: Params, rows: int) -> Float[Array, "R D"]:
    """A table with the MARKS in its first rows."""
    first: Any = model.apply({"params": params}, method="marks")
    return jnp.zeros((rows, first.shape[1]), first.dtype).at[: len(MARKS)].set(first)


@functools.partial(jax.jit, donate_argnames="table")
def put(
    table: Float[Array, "R D"], features: Float[Array, "rows D"], row: Int[Array, ""]
) -> Float[Array, "R D"]:
    """The table with features from this row on."""
    return jax.lax.dynamic_update_slice_in_dim(table, features, row, 0)


def encode(
    model: Ola, params: Params, content: ImagePatches | HostArray
) -> Iterator[Float[Array, "rows D"] | None]:
    """The features of one part of the media, those of padding behind them; None for each piece before.

    Waits for each piece.
    """
    if not isinstance(content, ImagePatches):
        yield jax.block_until_ready(_encode_audio(model, params, content))
        return
    count = len(content.patches)
    size = window_size(count)
    patches = np.zeros((size, content.patches.shape[1]), np.uint8)
    patches[:count] = content.patches
    place = np.tile(np.array([0, 0, 1, 1], np.int32), (size, 1))
    place[:count, :2] = np.stack(block_order(content.grid), axis=1)
    place[:count, 2:] = content.grid
    image = (np.arange(size) < count).astype(np.int32)
    yield from encode_in_pieces(model, params, patches, image, place)


@functools.partial(jax.jit, static_argnames="model")
def _encode_audio(model: Ola, params: Params, audio: Float[Array, "T"]) -> Float[Array, "F D"]:
    found: Any = model.apply({"params": params}, audio[None], method="encode_audio")
    return found[0]
