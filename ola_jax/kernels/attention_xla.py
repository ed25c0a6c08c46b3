"""Attention over packed segments in plain JAX, for any device: the reference for all other forms.

Short inputs are computed at once, long ones in blocks, as in flash attention: the scores of one block
are in memory at a time, and blocks without a pair of the same segment are not computed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ola_jax.kernels.attention_inputs import RESIDUALS, PackedInputs
from ola_jax.kernels.segment_blocks import computed_blocks
from ola_jax.sharding import platform
from ola_jax.typing import Array, Float, Int

BLOCK = 1024  # queries and keys of a block, on accelerators: each step of a loop costs microseconds
BLOCK_ON_CPU = 128  # what a core's cache holds
UNBLOCKED_ON_CPU = 256  # up to this many queries, one piece is faster there than blocks
MASKED = -1e30  # score of a pair that is masked out


def attend(inputs: PackedInputs) -> Float[Array, "B L H h"]:
    """Computes packed_attention for one device's rows, heads and queries."""
    longest = UNBLOCKED_ON_CPU if platform() == "cpu" else BLOCK
    return attend_unblocked(inputs) if inputs.q.shape[1] <= longest else attend_in_blocks(inputs)


def attend_unblocked(inputs: PackedInputs) -> Float[Array, "B L H h"]:
    """Computes all scores at once."""
    q, k, v = _arranged(inputs)
    positions = inputs.q_offset + jnp.arange(q.shape[3])
    scores = _scores(q, k, inputs.q_segments, inputs.k_segments, positions, 0, inputs.causal)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return _by_query_head(_product("bkgqs,bksh->bkgqh", weights, v).astype(v.dtype))


def attend_in_blocks(inputs: PackedInputs, block: int | None = None) -> Float[Array, "B L H h"]:
    """Computes block by block, row by row; the backward pass recomputes the scores."""
    block = block or (BLOCK_ON_CPU if platform() == "cpu" else BLOCK)
    length = inputs.q.shape[1]

    def pad(x: Array) -> Array:
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % block), *[(0, 0)] * (x.ndim - 2)])

    q_segments, k_segments = pad(inputs.q_segments), pad(inputs.k_segments)
    q, k, v = pad(inputs.q), pad(inputs.k), pad(inputs.v)
    inputs = PackedInputs(q, k, v, q_segments, k_segments, inputs.causal, inputs.q_offset)
    offset = jnp.asarray(inputs.q_offset)
    out = _flash(*_arranged(inputs), q_segments, k_segments, offset, inputs.causal, block)
    return _by_query_head(out)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _flash(
    q: Float[Array, "B K G L h"],
    k: Float[Array, "B K S h"],
    v: Float[Array, "B K S h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    q_offset: Int[Array, ""],
    causal: bool,
    block: int,
) -> Float[Array, "B K G L h"]:
    return _flash_forward(q, k, v, q_segments, k_segments, q_offset, causal, block)[0]


def _flash_forward(
    q: Array,
    k: Array,
    v: Array,
    q_segments: Array,
    k_segments: Array,
    q_offset: Array | int,
    causal: bool,
    block: int,
) -> tuple[Array, tuple]:
    def row(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> tuple[Array, Array]:
        cut, first, end = _loops(q_segments, k_segments, q_offset, causal, block)

        def queries(i: Array) -> tuple[Array, Array]:
            q_i = cut(q, i, 2)
            score = _block_scores(q_i, k, q_segments, k_segments, q_offset, causal, i, cut)

            def keys(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                top, total, out = state
                scores = score(j)
                new_top = jnp.maximum(top, scores.max(axis=-1))
                weights = jnp.exp(scores - new_top[..., None])
                fade = jnp.exp(top - new_top)
                part = _product("kgqs,ksh->kgqh", weights.astype(v.dtype), cut(v, j, 1))
                return new_top, fade * total + weights.sum(axis=-1), fade[..., None] * out + part

            shape = q_i.shape[:-1]
            start = jnp.full(shape, MASKED), jnp.zeros(shape), jnp.zeros((*shape, v.shape[-1]))
            top, total, out = jax.lax.fori_loop(first[i], end[i], keys, start)
            return (out / total[..., None]).astype(v.dtype), top + jnp.log(total)

        out, log_total = jax.lax.map(queries, jnp.arange(len(first)))
        return _join(out, 2), _join(log_total, 2)

    out, log_total = jax.lax.map(lambda x: row(*x), (q, k, v, q_segments, k_segments))
    out, log_total = checkpoint_name(out, RESIDUALS), checkpoint_name(log_total, RESIDUALS)
    return out, (q, k, v, q_segments, k_segments, q_offset, out, log_total)


def _flash_backward(causal: bool, block: int, saved: tuple, d_out: Array) -> tuple:
    q, k, v, q_segments, k_segments, q_offset, out, log_total = saved

    def row(
        q: Array,
        k: Array,
        v: Array,
        q_segments: Array,
        k_segments: Array,
        log_total: Array,
        out: Array,
        d_out: Array,
    ) -> tuple[Array, Array, Array]:
        cut, first, end = _loops(q_segments, k_segments, q_offset, causal, block)
        inner = jnp.einsum("kgqh,kgqh->kgq", out, d_out, preferred_element_type=jnp.float32)

        def queries(sums: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
            q_i, d_out_i, log_total_i, inner_i = (cut(x, i, 2) for x in (q, d_out, log_total, inner))
            score = _block_scores(q_i, k, q_segments, k_segments, q_offset, causal, i, cut)

            def keys(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                d_q, d_k, d_v = state
                weights = jnp.exp(score(j) - log_total_i[..., None])
                d_weights = _product("kgqh,ksh->kgqs", d_out_i, cut(v, j, 1))
                d_scores = (weights * (d_weights - inner_i[..., None])).astype(q.dtype)
                d_q += _product("kgqs,ksh->kgqh", d_scores, cut(k, j, 1))
                d_k = _add(d_k, j * block, _product("kgqs,kgqh->ksh", d_scores, q_i))
                d_v = _add(d_v, j * block, _product("kgqs,kgqh->ksh", weights.astype(v.dtype), d_out_i))
                return d_q, d_k, d_v

            none = jnp.zeros(q_i.shape)
            d_q, d_k, d_v = jax.lax.fori_loop(first[i], end[i], keys, (none, *sums))
            return (d_k, d_v), d_q.astype(q.dtype)

        zeros = jnp.zeros(k.shape), jnp.zeros(v.shape)
        (d_k, d_v), d_q = jax.lax.scan(queries, zeros, jnp.arange(len(first)))
        return _join(d_q, 2), d_k.astype(k.dtype), d_v.astype(v.dtype)

    arrays = q, k, v, q_segments, k_segments, log_total, out, d_out
    d_q, d_k, d_v = jax.lax.map(lambda x: row(*x), arrays)
    no_gradient = lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0)
    return d_q, d_k, d_v, no_gradient(q_segments), no_gradient(k_segments), no_gradient(q_offset)


_flash.defvjp(_flash_forward, _flash_backward)


def _loops(q_segments: Array, k_segments: Array, q_offset: Array | int, causal: bool, block: int) -> tuple:
    """A function that cuts block i out of an axis; the first key block of each query block, and the end."""
    computed = computed_blocks(
        q_segments, k_segments, block_q=block, block_k=block, causal=causal, q_offset=q_offset
    )
    first = jnp.argmax(computed, axis=1)
    end = computed.shape[1] - jnp.argmax(computed[:, ::-1], axis=1)
    cut = lambda x, i, axis: jax.lax.dynamic_slice_in_dim(x, i * block, block, axis)
    return cut, first, end


def _block_scores(
    q_i: Array,
    k: Array,
    q_segments: Array,
    k_segments: Array,
    q_offset: Array | int,
    causal: bool,
    i: Array,
    cut: Callable[[Array, Array, int], Array],
) -> Callable[[Array], Array]:
    """The scores of one block of queries with the block of keys `j`, as a function of j."""
    q_segments_i, count = cut(q_segments, i, 0), q_i.shape[2]
    q_positions = q_offset + i * count + jnp.arange(count)

    def score(j: Array) -> Array:
        k_j, k_segments_j = cut(k, j, 1), cut(k_segments, j, 0)
        args = q_i[None], k_j[None], q_segments_i[None], k_segments_j[None], q_positions, j * count, causal
        return _scores(*args)[0]

    return score


def _scores(
    q: Float[Array, "B K G L h"],
    k: Float[Array, "B K S h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    q_positions: Int[Array, "L"],
    k_start: Int[Array, ""] | int,
    causal: bool,
) -> Float[Array, "B K G L S"]:
    scores = _product("bkgqh,bksh->bkgqs", q, k)
    allowed = q_segments[:, :, None] == k_segments[:, None, :]
    if causal:
        allowed &= q_positions[:, None] >= k_start + jnp.arange(k.shape[2])
    return jnp.where(allowed[:, None, None], scores, MASKED)


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _arranged(inputs: PackedInputs) -> tuple[Array, Array, Array]:
    """Scaled queries, keys and values, heads before positions."""
    scaled = inputs.q * inputs.q.shape[-1] ** -0.5
    return _by_key_head(scaled, inputs.k.shape[2]), _heads_first(inputs.k), _heads_first(inputs.v)


def _heads_first(x: Array) -> Array:
    return jnp.swapaxes(x, 1, 2)


def _by_key_head(q: Float[Array, "B L H h"], kv_heads: int) -> Float[Array, "B K G L h"]:
    """Query heads that share a key head side by side."""
    return _heads_first(q).reshape(q.shape[0], kv_heads, -1, q.shape[1], q.shape[3])


def _by_query_head(out: Float[Array, "B K G L h"]) -> Float[Array, "B L H h"]:
    return _heads_first(out.reshape(out.shape[0], -1, *out.shape[3:]))


def _join(blocks: Array, axis: int) -> Array:
    """Reshapes [blocks ... block ...] to [... blocks * block ...]."""
    return jnp.moveaxis(blocks, 0, axis).reshape(*blocks.shape[1 : axis + 1], -1, *blocks.shape[axis + 2 :])


def _add(sums: Array, start: Array, part: Array) -> Array:
    old = jax.lax.dynamic_slice_in_dim(sums, start, part.shape[1], 1)
    return jax.lax.dynamic_update_slice_in_dim(sums, old + part, start, 1)
