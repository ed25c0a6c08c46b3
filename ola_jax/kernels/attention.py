"""Attention over packed segments: one function that every part but BEATs calls."""

from typing import Literal

import jax
import jax.numpy as jnp

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

    Segments are numbers from 1; 0 is padding, whose outputs are finite and mean nothing. With
    `causal`, query i stands at place `q_offset + i` among the keys and sees none behind it. H is a
    multiple of K: neighbouring query heads share a key head, which is not repeated in memory. Scores
    are scaled by h ** -0.5; softmax in float32. Memory grows with L and not with its square.

    On a mesh every device computes its own rows, heads and queries; all keys of a row are brought
    to all devices that have a part of its tokens. `implementation` "auto" is "splash" where the
    devices are TPUs, else "xla". With `q_offset` it is "xla" on a mesh and for a few queries.
    """
    if implementation == "auto":
        implementation = "splash" if platform() == "tpu" else "xla"
    if q_offset is not None:
        if implementation == "splash" and not is_sharded() and q.shape[1] >= splash.LANES:
            return _splash(q, k, v, q_segments, k_segments, causal, q_offset)
        return _attend(q, k, v, q_segments, k_segments, causal, q_offset)
    if implementation == "splash":
        _check_splash(q.shape[1], axes)
    attend = {"xla": _attend, "splash": _splash}[implementation]
    if not is_sharded():
        return attend(q, k, v, q_segments, k_segments, causal, 0)

    def local(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> Array:
        offset = jax.lax.axis_index("context") * q.shape[1] if axes[1] else 0
        return attend(q, k, v, q_segments, k_segments, causal, offset)

    rows, length, heads = axes
    queries, keys = spec(rows, length, heads, None), spec(rows, None, heads, None)
    in_specs = queries, keys, keys, spec(rows, length), spec(rows, None)
    sharded = jax.shard_map(local, in_specs=in_specs, out_specs=queries, check_vma=False)
    return sharded(q, k, v, q_segments, k_segments)


def _splash(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B S K h"],
    v: Float[Array, "B S K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B S"],
    causal: bool,
    q_offset: Int[Array, ""] | int,
) -> Float[Array, "B L H h"]:
    """By the Pallas kernel; where there is no TPU, interpreted (slow: for tests)."""
    return splash.attend(q, k, v, q_segments, k_segments, causal, q_offset, interpret=platform() != "tpu")


def _check_splash(length: int, axes: Axes) -> None:
    """Raises OlaError where a device's share of the queries would be no whole blocks."""
    shards = axis_size("context") if axes[1] else 1
    if shards > 1 and (splash.padded_length(length) != length or length % (shards * splash.LANES)):
        raise OlaError(
            f"splash attention: {length} tokens over context={shards}; expected a multiple of "
            f"{max(splash.BLOCK, shards * splash.LANES)}"
        )


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
