"""Splash attention, the Pallas kernel for TPUs that comes with JAX, over packed segments.

The scores are never stored in memory. Blocks of queries and keys that hold no pair of the same segment are
skipped, forward and backward; they are found on the device, from the segments of each row.
"""

import operator

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from ola_jax.kernels.attention_inputs import RESIDUALS, PackedInputs
from ola_jax.kernels.segment_blocks import LANES, computed_blocks
from ola_jax.typing import Array, Bool, Float, Int

BLOCK = 512  # queries and keys of a block; 2048 do not fit the VMEM of v4, v5e and v5p


def padded_length(length: int) -> int:
    """The length rounded up to a multiple of the kernel's block."""
    multiple = LANES if length < BLOCK else BLOCK
    return length + -length % multiple


def attend(inputs: PackedInputs, interpret: bool) -> Float[Array, "B L H h"]:
    """Computes packed_attention for one device's rows, heads and queries.

    The kernel's own index maps lead neighbouring query heads to the key head that they share.
    """
    length, width = inputs.q.shape[1], inputs.q.shape[-1]
    heads_first = lambda x: jnp.swapaxes(_pad(x), 1, 2)
    q, k, v = heads_first(inputs.q * width**-0.5), heads_first(inputs.k), heads_first(inputs.v)
    padded = jnp.asarray(_pad(inputs.q_segments)), jnp.asarray(_pad(inputs.k_segments))
    segments = kernels.SegmentIds(*padded)

    def row(q: Array, k: Array, v: Array, segments: kernels.SegmentIds) -> Array:
        out = _kernel(segments, inputs.causal, inputs.q_offset, interpret)(q, k, v, segments)
        assert isinstance(out, jax.Array), "without residuals the kernel returns one array"
        return out

    # The masks differ from row to row: for the kernel, vmap becomes a loop over rows.
    return jnp.swapaxes(jax.vmap(row)(q, k, v, segments), 1, 2)[:, :length].astype(v.dtype)


def _kernel(
    segments: kernels.SegmentIds, causal: bool, q_offset: Int[Array, ""] | int, interpret: bool
) -> kernels.SplashAttentionKernel:
    """The kernel of one row."""
    queries, keys = segments.q.shape[0], segments.kv.shape[0]
    q, k = min(BLOCK, queries), min(BLOCK, keys)
    blocks = kernels.BlockSizes(
        block_q=q,
        block_kv=k,
        block_kv_compute=k,
        block_q_dkv=q,
        block_kv_dkv=k,
        block_kv_dkv_compute=k,
        block_q_dq=q,
        block_kv_dq=k,
    )
    positions = q_offset + jnp.arange(queries, dtype=jnp.int32)
    computed = computed_blocks(
        segments.q, segments.kv, block_q=q, block_k=k, causal=causal, q_offset=q_offset
    )

    def info(next_block: Int[Array, "q_blocks k_blocks"]) -> MaskInfo:
        return MaskInfo(
            data_next=next_block[None],
            mask_next=None,
            block_mask=computed[None].astype(jnp.int8),
            partial_mask_blocks=None,
            q_sequence=positions if causal else None,  # type: ignore[arg-type]  # traced arrays work as well
        )

    by_query, by_key = info(_next_block(computed)), info(_next_block(computed.T).T)
    return kernels.SplashAttentionKernel(
        by_query,
        by_query,
        by_key,
        block_sizes=blocks,
        is_mqa=False,
        save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=RESIDUALS,
        mask_function=operator.ge if causal else None,
        interpret=interpret,
    )


def _next_block(computed: Bool[Array, "rows columns"]) -> Int[Array, "rows columns"]:
    """The block to prefetch at each step along a row: itself if computed, else the next, or the last."""
    columns = computed.shape[1]
    column = jnp.arange(columns, dtype=jnp.int32)
    following = jax.lax.cummin(jnp.where(computed, column, columns), axis=1, reverse=True)
    last = jnp.where(computed, column, 0).max(axis=1, keepdims=True)
    small = jnp.int8 if columns <= 127 else jnp.int32
    return jnp.minimum(following, last).astype(small)


def _pad(x: Array) -> Array:
    widths = [(0, 0), (0, padded_length(x.shape[1]) - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x, widths)
