"""Blocks of queries and keys that hold a pair of the same segment."""

import jax.numpy as jnp

from ola_jax.typing import Array, Bool, Int

LANES = 128  # on TPUs a block of keys is a multiple of this


def computed_blocks(
    q_segments: Int[Array, "L"],
    k_segments: Int[Array, "S"],
    *,
    block_q: int,
    block_k: int,
    causal: bool,
    q_offset: Int[Array, ""] | int = 0,
) -> Bool[Array, "q_blocks k_blocks"]:
    """True for the blocks that are computed: all that hold a pair, and for padding the one on the diagonal.

    Exact where segments are sorted with the padding (0) last, as in our batches. In any other order
    blocks may be computed needlessly, but none is missed: a block is skipped if the segments of its
    queries are all smaller, or all greater, than those of its keys.
    """

    def find_range(segments: Array, block: int) -> tuple[Array, Array]:
        segments = segments.reshape(-1, block)
        none = jnp.iinfo(segments.dtype).max
        return jnp.where(segments > 0, segments, none).min(axis=1), segments.max(axis=1)

    (q_low, q_high), (k_low, k_high) = find_range(q_segments, block_q), find_range(k_segments, block_k)
    computed = (q_low[:, None] <= k_high) & (k_low <= q_high[:, None])
    k_block = jnp.arange(len(k_low))
    first = q_offset + jnp.arange(len(q_low))[:, None] * block_q  # position among the keys
    if causal:
        computed &= first + block_q > k_block * block_k
    # Each query needs at least one key, its own, or the softmax would divide by zero.
    own = jnp.clip(first // block_k, 0, len(k_low) - 1)
    return computed | (~computed.any(axis=1, keepdims=True) & (k_block == own))
