"""Which blocks of queries and keys hold a pair of the same segment."""

import jax.numpy as jnp

from ola_jax.typing import Array, Bool, Int

LANES = 128  # on TPUs a block of keys is a multiple of this


def computed_blocks(
    q_segments: Int[Array, "L"],
    k_segments: Int[Array, "S"],
    block_q: int,
    block_k: int,
    causal: bool,
    q_offset: Int[Array, ""] | int = 0,
) -> Bool[Array, "q_blocks k_blocks"]:
    """Which blocks the kernel computes: all that hold a pair, and for padding the one on the diagonal.

    Exact where segments are sorted with the padding (0) last, as in our batches. In any other order
    blocks may be computed in vain, but none is missed: a block is skipped if the segments of its
    queries are all smaller, or all greater, than those of its keys.
    """

    def range_of(segments: Array, block: int) -> tuple[Array, Array]:
        segments = segments.reshape(-1, block)
        none = jnp.iinfo(segments.dtype).max
        return jnp.where(segments > 0, segments, none).min(axis=1), segments.max(axis=1)

    (q_low, q_high), (k_low, k_high) = range_of(q_segments, block_q), range_of(k_segments, block_k)
    computed = (q_low[:, None] <= k_high) & (k_low <= q_high[:, None])
    k_place = jnp.arange(len(k_low))
    first = q_offset + jnp.arange(len(q_low))[:, None] * block_q  # place among the keys
    if causal:
        computed &= first + block_q > k_place * block_k
    # Each query meets one key at least, itself, or the softmax would divide by zero.
    own = jnp.clip(first // block_k, 0, len(k_low) - 1)
    return computed | (~computed.any(axis=1, keepdims=True) & (k_place == own))
