"""Local-global attention pooling: the members of a group (four neighbouring patches) become one token.

With x the members and g their mean, scores = W2 gelu(W1 [x, g] + b1) + b2, softmax over the members
for each channel, then the weighted sum (arXiv 2502.04328, section 3.2; the original's
pooler_projector.py). W1 [x, g] = W1x x + W1g g, and W1g g is the same for all members: it is
computed once. b2 adds the same to all members and cancels in the softmax: it is left out, its
gradient is zero. A group of four then costs 18 D^2 FLOPs, instead of 24 for the formula as written.

Kernels are imported when they are chosen: Pallas is slow to import, and its API is experimental.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ola_jax.sharding import platform
from ola_jax.typing import Array, Float

Implementation = Literal["auto", "pallas", "xla"]
LANES = 128  # the kernels take channels in multiples of this


class PoolParams(NamedTuple):
    """The network that scores the members."""

    kernel1: Float[Array, "2*D D"]  # its first half for the member, its second for the mean
    bias1: Float[Array, "D"]
    kernel2: Float[Array, "D D"]


class SplitParams(NamedTuple):
    """PoolParams as the kernels take them: the halves of kernel1 apart."""

    local_kernel: Float[Array, "D D"]
    mean_kernel: Float[Array, "D D"]
    bias1: Float[Array, "D"]
    kernel2: Float[Array, "D D"]


def local_global_pool(
    x: Float[Array, "*b n D"],
    params: PoolParams,
    *,
    implementation: Implementation = "auto",
    interpret: bool = False,
    kernels: Literal["tpu", "gpu"] | None = None,
) -> Float[Array, "*b D"]:
    """Pools the n members of each group (n = 4 in Ola: a 2x2 block).

    `pallas` is a kernel: for TPUs one that keeps scores and hidden activations out of main memory, forward
    and backward; for Hopper GPUs products with fused epilogues, in bfloat16 and for at most four members
    (otherwise OlaError). `xla` leaves fusion to the compiler and takes any input. `auto` is `xla`: the
    products dominate, and no kernel has been measured to be faster yet (docs/performance.md). Products
    are in x's dtype; in the kernels sums, GELU and softmax are in float32. `interpret` runs the kernels
    for `kernels` (default: for the devices; on a CPU those for TPUs) on any platform, slowly.
    """
    groups = x.reshape(-1, *x.shape[-2:])
    if implementation != "pallas":
        pooled = pool_xla(groups, params)
    elif (kernels or platform()) == "gpu":
        from ola_jax.kernels import local_global_pool_hopper as hopper

        hopper.check_supported(x.shape[-2], x.dtype, interpret)
        pooled = pool_hopper(interpret, groups, params)
    else:
        pooled = pool_tpu(interpret, groups, params)
    return pooled.reshape(*x.shape[:-2], x.shape[-1])


def pool_xla(x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The computation in plain JAX."""
    local_kernel, mean_kernel = jnp.split(params.kernel1, 2, axis=0)
    from_mean = x.mean(axis=1) @ mean_kernel + params.bias1
    from_member = (x.reshape(-1, x.shape[-1]) @ local_kernel).reshape(x.shape)
    hidden = jax.nn.gelu(from_member + from_mean[:, None], approximate=False)
    scores = (hidden.reshape(-1, x.shape[-1]) @ params.kernel2).reshape(x.shape)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1).astype(x.dtype)
    return (x * weights).sum(axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pool_tpu(interpret: bool, x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The kernels for TPUs, forward and backward. Channels are padded with zeros, which stay zero."""
    from ola_jax.kernels import local_global_pool_tpu as tpu

    pooled = tpu.pool(_member_major(x), _split_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]]


def _forward_tpu(
    interpret: bool, x: Array, params: PoolParams
) -> tuple[Array, tuple[tuple[Array, ...], PoolParams]]:
    from ola_jax.kernels import local_global_pool_tpu as tpu

    pooled, saved = tpu.pool_and_save(_member_major(x), _split_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]], (tuple(saved), params)


def _backward_tpu(
    interpret: bool, saved: tuple[tuple[Array, ...], PoolParams], grad: Float[Array, "G D"]
) -> tuple[Array, PoolParams]:
    from ola_jax.kernels import local_global_pool_tpu as tpu

    activations, params = saved
    x_grad, params_grad = tpu.pool_backward(
        tpu.Saved(*activations), _split_params(params), _pad_to_lanes(grad, (1,)), interpret=interpret
    )
    return jnp.swapaxes(x_grad, 0, 1)[..., : grad.shape[-1]], _crop(params_grad, params)


pool_tpu.defvjp(_forward_tpu, _backward_tpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pool_hopper(interpret: bool, x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The kernels for Hopper GPUs, forward and backward."""
    from ola_jax.kernels import local_global_pool_hopper as hopper

    pooled = hopper.pool(_pad_to_lanes(x, (2,)), _split_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]]


def _forward_hopper(
    interpret: bool, x: Array, params: PoolParams
) -> tuple[Array, tuple[tuple[Array, ...], PoolParams]]:
    from ola_jax.kernels import local_global_pool_hopper as hopper

    padded = _pad_to_lanes(x, (2,))
    pooled, saved = hopper.pool_and_save(padded, _split_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]], (tuple(saved), params)


def _backward_hopper(
    interpret: bool, saved: tuple[tuple[Array, ...], PoolParams], grad: Float[Array, "G D"]
) -> tuple[Array, PoolParams]:
    from ola_jax.kernels import local_global_pool_hopper as hopper

    activations, params = saved
    x_grad, params_grad = hopper.pool_backward(
        hopper.Saved(*activations), _split_params(params), _pad_to_lanes(grad, (1,)), interpret=interpret
    )
    return x_grad[..., : grad.shape[-1]], _crop(params_grad, params)


pool_hopper.defvjp(_forward_hopper, _backward_hopper)


def _member_major(x: Float[Array, "G n D"]) -> Float[Array, "n G Dp"]:
    """Members as the leading axis, so that reductions over them need no register shuffles."""
    return _pad_to_lanes(jnp.swapaxes(x, 0, 1), (2,))


def _split_params(params: PoolParams) -> SplitParams:
    """The parameters with the halves of kernel1 apart and channels padded to a multiple of LANES."""
    local_kernel, mean_kernel = jnp.split(params.kernel1, 2, axis=0)
    pad = functools.partial(_pad_to_lanes, axes=(0, 1))
    bias1 = _pad_to_lanes(params.bias1, (0,))
    return SplitParams(pad(local_kernel), pad(mean_kernel), bias1, pad(params.kernel2))


def _crop(grads: SplitParams, like: PoolParams) -> PoolParams:
    """Gradients of the parameters, from those of what _split_params returns."""
    width = like.bias1.shape[0]
    kernel1 = jnp.concatenate([grads.local_kernel[:width, :width], grads.mean_kernel[:width, :width]])
    cropped = PoolParams(kernel1, grads.bias1[:width], grads.kernel2[:width, :width])
    return jax.tree.map(lambda grad, parameter: grad.astype(parameter.dtype), cropped, like)


def _pad_to_lanes(x: Array, axes: tuple[int, ...]) -> Array:
    """Pads `axes` with zeros at their end, to the next multiple of LANES."""
    widths = [(0, -size % LANES if axis in axes else 0) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(after for _, after in widths) else x
