"""Attention over packed segments: one function that every part but BEATs calls."""

import jax
import jax.numpy as jnp

from ola_jax.typing import Array, Float, Int

QUERY_BLOCK = 1024  # queries whose scores exist at one time


def packed_attention(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    causal: bool,
    q_offset: Int[Array, ""] | int = 0,
) -> Float[Array, "B L H h"]:
    """Softmax attention in which a query sees the keys of its own segment only.

    With `causal`, query i stands at place `q_offset + i` among the keys and sees none behind it.
    H is a multiple of K: neighbouring query heads share a key head, which is not repeated in
    memory. Scores are scaled by h ** -0.5; softmax in float32. Long inputs go through in blocks of
    queries, so that memory grows with L and not with its square.
    """
    batch, length, heads, width = q.shape
    groups = heads // k.shape[2]
    k_place = jnp.arange(k.shape[1])

    heads_first = lambda x: jnp.swapaxes(x, 1, 2)
    k, v = heads_first(k), heads_first(v)

    def block(q: Array, q_segments: Array, q_place: Array) -> Array:
        count = q.shape[1]
        # The queries of all heads of a group meet their key head in one product: [B K group*L h].
        q = heads_first(q * width**-0.5).reshape(batch, -1, groups * count, width)
        scores = jnp.einsum("bkqh,bksh->bkqs", q, k, preferred_element_type=jnp.float32)
        allowed = q_segments[:, :, None] == k_segments[:, None, :]
        if causal:
            allowed &= q_place[:, None] >= k_place
        scores = scores.reshape(batch, -1, groups, count, k.shape[2])
        scores = jnp.where(allowed[:, None, None], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        out = jnp.einsum("bkqs,bksh->bkqh", weights.reshape(batch, -1, groups * count, k.shape[2]), v)
        return heads_first(out.reshape(batch, heads, count, width))

    q_place = q_offset + jnp.arange(length)
    if length <= QUERY_BLOCK:
        return block(q, q_segments, q_place)

    # Whole blocks by a loop whose body is computed again in the backward pass, then the rest.
    whole = length // QUERY_BLOCK * QUERY_BLOCK
    split = lambda x, axis: jnp.stack(jnp.split(x, whole // QUERY_BLOCK, axis))
    inputs = split(q[:, :whole], 1), split(q_segments[:, :whole], 1), split(q_place[:whole], 0)
    out = jax.lax.map(lambda x: jax.checkpoint(block)(*x), inputs)
    out = jnp.moveaxis(out, 0, 1).reshape(batch, whole, heads, width)
    if whole < length:
        out = jnp.concatenate([out, block(q[:, whole:], q_segments[:, whole:], q_place[whole:])], axis=1)
    return out
