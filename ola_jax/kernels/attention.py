"""Attention over packed segments: one function that every part but BEATs calls."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ola_jax.errors import OlaError
from ola_jax.kernels import splash
from ola_jax.sharding import axis_size, is_sharded, platform, spec
from ola_jax.typing import Array, Float, Int

QUERY_BLOCK = 1024  # queries whose scores exist at one time
Implementation = Literal["auto", "xla", "splash"]
Axes = tuple[str | None, str | None, str | None]  # logical axes of rows, queries, heads
DECODER_AXES: Axes = ("rows", "length", "heads")
ENCODER_AXES: Axes = ("windows", None, None)


def packed_attention(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    causal: bool,
    q_offset: Int[Array, ""] | None = None,
    axes: Axes = DECODER_AXES,
    implementation: Implementation = "auto",
) -> Float[Array, "B L H h"]:
    """Softmax attention in which a query sees the keys of its own segment only.

    With `causal`, query i stands at place `q_offset + i` among the keys and sees none behind it.
    H is a multiple of K: neighbouring query heads share a key head, which is not repeated in
    memory. Scores are scaled by h ** -0.5; softmax in float32. Long inputs go through in blocks of
    queries, so that memory grows with L and not with its square.

    On a mesh every device computes its own rows, heads and queries; all keys of a row are brought
    to all devices that have a part of its tokens. `implementation` "auto" is "splash" where the
    devices are TPUs, else "xla"; with `q_offset` it is always "xla".
    """
    if q_offset is not None:
        return _attend(q, k, v, q_segments, k_segments, causal, q_offset)
    if implementation == "splash" or (implementation == "auto" and platform() == "tpu"):
        return _splash(q, k, v, q_segments, k_segments, causal, axes)
    if not is_sharded():
        return _attend(q, k, v, q_segments, k_segments, causal, 0)

    def local(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> Array:
        offset = jax.lax.axis_index("context") * q.shape[1] if axes[1] else 0
        return _attend(q, k, v, q_segments, k_segments, causal, offset)

    in_specs, out_specs = _specs(axes)
    sharded = jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return sharded(q, k, v, q_segments, k_segments)


def _specs(axes: Axes) -> tuple[tuple[PartitionSpec, ...], PartitionSpec]:
    rows, length, heads = axes
    queries, keys = spec(rows, length, heads, None), spec(rows, None, heads, None)
    return (queries, keys, keys, spec(rows, length), spec(rows, None)), queries


def _splash(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    causal: bool,
    axes: Axes,
) -> Float[Array, "B L H h"]:
    """By the Pallas kernel; where there is no TPU, interpreted (slow: for tests)."""
    _, length, heads = axes
    head_shards = axis_size("tensor") if heads else 1
    query_shards = axis_size("context") if length else 1
    queries, keys = splash.padded_length(q.shape[1]), splash.padded_length(k.shape[1])
    if query_shards > 1 and (queries != q.shape[1] or queries % (query_shards * splash.LANES)):
        raise OlaError(
            f"splash attention: {q.shape[1]} tokens over context={query_shards}; expected a multiple of "
            f"{max(splash.BLOCK, query_shards * splash.LANES)}"
        )
    interpret = platform() != "tpu"
    kernel = splash.make_kernel(queries, keys, q.shape[2], causal, interpret, head_shards, query_shards)
    if not is_sharded():
        return splash.attend(kernel, q, k, v, q_segments, k_segments)
    in_specs, out_specs = _specs(axes)
    mesh = jax.sharding.get_abstract_mesh()
    of_kernel = kernel.manual_sharding_spec(NamedSharding(mesh, spec(heads, length)))
    sharded = jax.shard_map(
        splash.attend, in_specs=(of_kernel, *in_specs), out_specs=out_specs, check_vma=False
    )
    return sharded(kernel, q, k, v, q_segments, k_segments)


def _attend(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    causal: bool,
    q_offset: Int[Array, ""] | int,
) -> Float[Array, "B L H h"]:
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
