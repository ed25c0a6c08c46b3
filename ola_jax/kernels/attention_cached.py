"""Attention over a cache in plain JAX, for any device: the reference for all other forms.

It runs over blocks of keys, as many as the longest row needs. A block beyond the end of a row leaves the row
unchanged, bit for bit: its weights are exactly 0 and the sums so far are multiplied by exactly 1. So a row's
result does not depend on the length of its neighbours.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from ola_jax.kernels.attention_inputs import CachedInputs
from ola_jax.sharding import constrain, platform
from ola_jax.typing import Array, Float

BLOCKS = (1024, 512, 256, 128)  # positions of a block: the first that divides those of the cache
BLOCKS_ON_CPU = (128,)
MASKED = -1e30  # score of a pair that is masked out


def attend(inputs: CachedInputs) -> Float[Array, "B L H h"]:
    """Computes cached_attention."""
    q, start = inputs.q, inputs.start
    rows, length, heads, width = q.shape
    positions, kv_heads = inputs.k.shape[2:4]
    block = _choose_block(positions)
    # [B K G L h]: query heads that share a key head side by side
    q = jnp.moveaxis((q * width**-0.5).reshape(rows, length, kv_heads, -1, width), 1, 3)
    by_head = lambda x: constrain(x, "rows", "kv_heads", *[None] * (x.ndim - 2))
    q = by_head(q)
    own = start[:, None] + jnp.arange(length)  # position of each query

    def cut(x: Array, j: Array) -> Array:
        first: list[Array | int] = [inputs.layer, jnp.asarray(inputs.slot), j * block, *[0] * (x.ndim - 3)]
        part = jax.lax.dynamic_slice(x, first, (1, rows, block, *x.shape[3:]))
        if platform() == "gpu":  # else XLA transposes the full cache rather than the part
            part = with_layout_constraint(part, Layout(tuple(range(part.ndim))))
        return part[0]

    def by_key(scale: Float[Array, "B s K"]) -> Float[Array, "B K 1 1 s"]:
        return jnp.moveaxis(scale, 2, 1)[:, :, None, None]

    def keys(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = state
        key_positions = j * block + jnp.arange(block)
        scores = _product("bkgqh,bskh->bkgqs", q, _as_float(cut(inputs.k, j), q))
        if inputs.k_scale is not None:
            scores = scores * by_key(cut(inputs.k_scale, j))
        seen = own[:, :, None] >= key_positions
        scores = jnp.where(seen[:, None, None], scores, MASKED)
        # What an earlier answer left beyond the end of a row may be NaN, so it must not be multiplied by 0.
        written = key_positions <= own[:, -1:]
        v = _as_float(jnp.where(written[..., None, None], cut(inputs.v, j), 0), q)
        new_top = jnp.maximum(top, scores.max(axis=-1))
        weights = jnp.exp(scores - new_top[..., None])
        fade = jnp.exp(top - new_top)
        scaled = weights
        if inputs.v_scale is not None:
            scaled = weights * by_key(jnp.where(written[..., None], cut(inputs.v_scale, j), 0))
        part = _product("bkgqs,bskh->bkgqh", scaled.astype(v.dtype), v)
        return new_top, fade * total + weights.sum(axis=-1), fade[..., None] * out + part

    shape = q.shape[:-1]
    none = (
        by_head(jnp.full(shape, MASKED)),
        by_head(jnp.zeros(shape)),
        by_head(jnp.zeros((*shape, width))),
    )
    blocks = jnp.minimum(own.max() // block + 1, positions // block)
    _, total, out = jax.lax.fori_loop(0, blocks, keys, none)
    out = by_head((out / total[..., None]).astype(q.dtype))
    return jnp.moveaxis(out, 3, 1).reshape(rows, length, heads, width)


def _choose_block(positions: int) -> int:
    sizes = BLOCKS_ON_CPU if platform() == "cpu" else BLOCKS
    return next((size for size in sizes if positions % size == 0), positions)


def _as_float(x: Array, like: Array) -> Array:
    """int8 in the dtype of `like`, unscaled; others as they are."""
    return x.astype(like.dtype) if x.dtype == jnp.int8 else x


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)
