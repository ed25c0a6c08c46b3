"""Attention over packed segments: one function that every part but BEATs calls.

Splash attention is imported where it is chosen: importing Pallas takes time, and its API is experimental.
"""

from typing import Literal

import jax

from ola_jax.errors import OlaError
from ola_jax.kernels import attention_cudnn, attention_xla
from ola_jax.kernels.segment_blocks import LANES
from ola_jax.sharding import activation_spec, axis_size, is_sharded, platform
from ola_jax.typing import Array, Float, Int

Implementation = Literal["auto", "xla", "splash", "cudnn"]
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
    devices are TPUs, else "xla"; "cudnn" raises OlaError for what it cannot do. With `q_offset` all but
    "splash" are "xla", and "splash" is too on a mesh and for a few queries.
    """
    if implementation == "auto":
        implementation = "splash" if platform() == "tpu" else "xla"
    if q_offset is not None:
        if implementation == "splash" and not is_sharded() and q.shape[1] >= LANES:
            return _splash(q, k, v, q_segments, k_segments, causal, q_offset)
        return attention_xla.attend(q, k, v, q_segments, k_segments, causal, q_offset)
    if implementation == "splash":
        _check_splash(q.shape[1], axes)
    if implementation == "cudnn":
        attention_cudnn.check(q.shape[1], q.shape[3], q.dtype, splits_length=axes[1] is not None)
    attend = {"xla": attention_xla.attend, "splash": _splash, "cudnn": _cudnn}[implementation]
    if not is_sharded():
        return attend(q, k, v, q_segments, k_segments, causal, 0)

    def local(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> Array:
        offset = jax.lax.axis_index("context") * q.shape[1] if axes[1] else 0
        return attend(q, k, v, q_segments, k_segments, causal, offset)

    rows, length, heads = axes
    queries, keys = activation_spec(rows, length, heads, None), activation_spec(rows, None, heads, None)
    in_specs = queries, keys, keys, activation_spec(rows, length), activation_spec(rows, None)
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
    from ola_jax.kernels import splash

    return splash.attend(q, k, v, q_segments, k_segments, causal, q_offset, interpret=platform() != "tpu")


def _cudnn(
    q: Float[Array, "B L H h"],
    k: Float[Array, "B L K h"],
    v: Float[Array, "B L K h"],
    q_segments: Int[Array, "B L"],
    k_segments: Int[Array, "B L"],
    causal: bool,
    _: Int[Array, ""] | int,
) -> Float[Array, "B L H h"]:
    return attention_cudnn.attend(q, k, v, q_segments, k_segments, causal)


def _check_splash(length: int, axes: Axes) -> None:
    """Raises OlaError where a device's share of the queries would be no whole blocks."""
    from ola_jax.kernels import splash

    shards = axis_size("context") if axes[1] else 1
    if shards > 1 and (splash.padded_length(length) != length or length % (shards * LANES)):
        raise OlaError(
            f"splash attention: {length} tokens over context={shards}; expected a multiple of "
            f"{max(splash.BLOCK, shards * LANES)}"
        )
