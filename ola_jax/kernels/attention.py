"""Attention: one function for packed rows, which every part but BEATs calls, and one over a cache.

Splash attention is imported where it is chosen: importing Pallas takes time, and its API is experimental.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from ola_jax.errors import OlaError
from ola_jax.kernels import attention_cached, attention_cudnn, attention_xla
from ola_jax.kernels.attention_inputs import CachedInputs, PackedInputs
from ola_jax.kernels.segment_blocks import LANES
from ola_jax.sharding import activation_spec, axis_size, is_sharded, platform
from ola_jax.typing import Array, Float

Implementation = Literal["auto", "xla", "splash", "cudnn"]
Form = Literal["xla", "splash", "cudnn"]
Axes = tuple[str | None, str | None, str | None]  # logical axes of rows, queries, heads
DECODER_AXES: Axes = ("rows", "length", "heads")
ENCODER_AXES: Axes = ("windows", None, None)


def packed_attention(
    inputs: PackedInputs, *, axes: Axes = DECODER_AXES, implementation: Implementation = "auto"
) -> Float[Array, "B L H h"]:
    """Computes softmax attention in which a query sees the keys of its own segment only.

    Outputs at padding are finite and have no meaning. Key heads are not repeated in memory. Scores
    are scaled by h ** -0.5; softmax in float32. Memory grows with L and not with its square.

    On a mesh every device computes its own rows, heads and queries; all keys of a row are gathered
    on all devices that have a part of its tokens. `implementation` "auto" is "splash" where the
    devices are TPUs, else "xla"; the others raise OlaError for what they do not support.
    """
    form = _form(implementation)
    length, width = inputs.q.shape[1], inputs.q.shape[3]
    if form == "splash":
        _check_splash(length, axes)
    if form == "cudnn":
        attention_cudnn.check_inputs(length, width, inputs.q.dtype, splits_length=axes[1] is not None)
    attend = _FORMS[form]
    if not is_sharded():
        return attend(inputs)

    def local(q: Array, k: Array, v: Array, q_segments: Array, k_segments: Array) -> Array:
        offset = jax.lax.axis_index("context") * q.shape[1] if axes[1] else 0
        return attend(PackedInputs(q, k, v, q_segments, k_segments, inputs.causal, offset))

    rows, length_axis, heads = axes
    queries, keys = activation_spec(rows, length_axis, heads, None), activation_spec(rows, None, heads, None)
    in_specs = queries, keys, keys, activation_spec(rows, length_axis), activation_spec(rows, None)
    sharded = jax.shard_map(local, in_specs=in_specs, out_specs=queries, check_vma=False)
    return sharded(inputs.q, inputs.k, inputs.v, inputs.q_segments, inputs.k_segments)


def cached_attention(
    inputs: CachedInputs, *, implementation: Implementation = "auto"
) -> Float[Array, "B L H h"]:
    """Computes softmax attention of each row over the positions of its slot up to the query's own.

    The result of a row does not depend on other rows, bit for bit, nor on later positions of the cache.

    "xla" supports everything, and "auto" is "xla" on every device. "splash" is for reading prompts, one slot
    at a time in multiples of 128 tokens, on one device, and raises OlaError elsewhere; steps of decoding
    (one token), which no block of the kernel fits, always use "xla". "auto" does not choose it on TPUs
    because XLA then copies the full cache for each piece of a prompt (compiled for a v6e: 1.75 GiB for 8
    slots of 4096 tokens of the 7B decoder). "cudnn" does not support a cache and raises OlaError.
    """
    rows, length = inputs.q.shape[:2]
    fits = rows == 1 and length % LANES == 0 and not is_sharded()
    if implementation == "cudnn":
        raise OlaError('cudnn attention: does not support the cache that answers need; use attention="xla"')
    if implementation == "splash" and not fits and length > 1:
        raise OlaError(
            f"splash attention over a cache: {rows} rows of {length} tokens on {_devices()} devices; "
            f'expected one row of a multiple of {LANES} tokens on one device, or attention="xla"'
        )
    if implementation == "splash" and fits:
        return _splash(_one_slot(inputs))
    return attention_cached.attend(inputs)


def _form(implementation: Implementation) -> Form:
    if implementation == "auto":
        return "splash" if platform() == "tpu" else "xla"
    return implementation


def _devices() -> int:
    return axis_size("data", "fsdp", "tensor", "context")


def _one_slot(inputs: CachedInputs) -> PackedInputs:
    """The keys and values of the one row's slot and layer, cut out of the cache."""
    start = (inputs.layer, jnp.asarray(inputs.slot), 0, 0, 0)
    cut = lambda x: jax.lax.dynamic_slice(x, start[: x.ndim], (1, 1, *x.shape[2:]))[0]
    k, v, first, length = cut(inputs.k), cut(inputs.v), inputs.start[0], inputs.q.shape[1]
    if inputs.k_scale is not None and inputs.v_scale is not None:
        whole = lambda x, scale: (x * cut(scale)[..., None]).astype(inputs.q.dtype)
        k, v = whole(k, inputs.k_scale), whole(v, inputs.v_scale)
    written = jnp.arange(k.shape[1])[None] < first + length
    v = jnp.where(written[..., None, None], v, 0)
    q_segments = jnp.ones((1, length), jnp.int32)
    return PackedInputs(inputs.q, k, v, q_segments, written.astype(jnp.int32), causal=True, q_offset=first)


def _splash(inputs: PackedInputs) -> Float[Array, "B L H h"]:
    """Runs the Pallas kernel; where there is no TPU, interpreted (slow: for tests)."""
    from ola_jax.kernels import splash

    return splash.attend(inputs, interpret=platform() != "tpu")


_FORMS: dict[Form, Callable[[PackedInputs], Array]] = {
    "xla": lambda inputs: attention_xla.attend(inputs),
    "splash": _splash,
    "cudnn": lambda inputs: attention_cudnn.attend(inputs),
}


def _check_splash(length: int, axes: Axes) -> None:
    """Raises OlaError if a device's share of the queries is not a multiple of a block."""
    from ola_jax.kernels import splash

    shards = axis_size("context") if axes[1] else 1
    if shards > 1 and (splash.padded_length(length) != length or length % (shards * LANES)):
        raise OlaError(
            f"splash attention: {length} tokens over context={shards}; expected a multiple of "
            f"{max(splash.BLOCK, shards * LANES)}"
        )
