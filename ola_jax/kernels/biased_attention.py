"""Attention of BEATs, with a position bias that each query scales, in float32."""

import jax
import jax.numpy as jnp

from ola_jax.typing import Array, Float

QUERY_BLOCK = 128  # queries whose scores are in memory at a time


def biased_attention(
    q: Float[Array, "B F H h"],
    k: Float[Array, "B F H h"],
    v: Float[Array, "B F H h"],
    *,
    gate: Float[Array, "B F H"],
    bias: Float[Array, "H F F"],
) -> Float[Array, "B F H h"]:
    """Computes softmax(q k / sqrt(h) + gate * bias) v, every frame attending to every frame, in float32.

    Long inputs are computed in blocks of queries, whose scores the backward pass recomputes:
    memory holds B * H * 128 * F scores, not B * H * F * F. JAX has no kernel that scales a bias per
    query without writing the scaled bias of each chunk to memory.
    """
    length, width = q.shape[1], q.shape[3]
    q = q * width**-0.5

    def block(q: Array, gate: Array, bias: Array) -> Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + jnp.moveaxis(gate, 2, 1)[..., None] * bias
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v)

    if length <= QUERY_BLOCK:
        return block(q, gate, bias)

    def split(x: Array) -> Array:
        """Blocks of axis 1 on a new first axis, the last one padded."""
        x = jnp.pad(x, [(0, 0), (0, -length % QUERY_BLOCK), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(x.shape[0], -1, QUERY_BLOCK, *x.shape[2:]), 1, 0)

    out = jax.lax.map(lambda x: jax.checkpoint(block)(*x), (split(q), split(gate), split(bias)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape[0], -1, *q.shape[2:])[:, :length]
