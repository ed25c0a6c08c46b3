"""Splash attention, the Pallas kernel for TPUs that comes with JAX, over packed segments.

The scores never exist in memory. Segments only mask: blocks between two samples are computed.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from ola_jax.typing import Array, Float, Int

BLOCK = 512  # queries and keys of a block; 2048 do not fit the VMEM of v4, v5e and v5p
LANES = 128  # a block of keys is a multiple of this
RESIDUALS = "attention"  # name of what the backward pass needs, for remat policies


def padded_length(length: int) -> int:
    """The length that the kernel takes: whole blocks."""
    multiple = LANES if length < BLOCK else BLOCK
    return length + -length % multiple


def make_kernel(
    queries: int,
    keys: int,
    heads: int,
    causal: bool,
    interpret: bool,
    head_shards: int = 1,
    query_shards: int = 1,
) -> kernels.SplashAttentionKernel:
    """The kernel for whole (padded) lengths, over all devices; one device gets its share by shard_map."""
    mask = masks.CausalMask((queries, keys)) if causal else masks.FullMask((queries, keys))
    q, k = min(BLOCK, queries // query_shards), min(BLOCK, keys)
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
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=blocks,
        head_shards=head_shards,
        q_seq_shards=query_shards,
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )


def attend(
    kernel: kernels.SplashAttentionKernel,
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
) -> Float[Array, "B L H h"]:
    """What packed_attention does, for one device's rows, heads and queries."""
    length = q.shape[1]

    def heads_first(x: Array) -> Array:
        return jnp.swapaxes(_pad(x, 0), 1, 2)

    q = heads_first(q * q.shape[-1] ** -0.5)
    segments = kernels.SegmentIds(_pad(q_segments, -1), _pad(k_segments, -1))
    out = jax.vmap(kernel)(q, heads_first(k), heads_first(v), segments)
    return jnp.swapaxes(out, 1, 2)[:, :length].astype(v.dtype)


def _pad(x: Array, value: int) -> Array:
    widths = [(0, 0), (0, padded_length(x.shape[1]) - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x, widths, constant_values=value)
