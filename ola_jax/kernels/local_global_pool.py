"""Local-global attention pooling: the members of a group (four neighbouring patches) become one token.

With x the members and g their mean, scores = W2 gelu(W1 [x, g] + b1) + b2, softmax over the members
for each channel, then the weighted sum (arXiv 2502.04328, section 3.2; the original's
pooler_projector.py). W1 [x, g] = W1x x + W1g g, and W1g g is the same for all members: it is
computed once. b2 adds the same to all members and cancels in the softmax: it is left out, its
gradient is zero. A group of four then costs 18 D^2 FLOPs, where the formula as it is written has 24.

The kernels are imported where they are chosen: Pallas takes time to import, and its API is experimental.
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


def local_global_pool(
    x: Float[Array, "*b n D"],
    params: PoolParams,
    implementation: Implementation = "auto",
    interpret: bool = False,
    kernels: Literal["tpu", "gpu"] | None = None,
) -> Float[Array, "*b D"]:
    """Pool the n members of each group (n = 4 in Ola: a 2x2 block).

    `pallas` is a kernel: for TPUs one that keeps scores and hidden activations out of main memory, forward
    and backward; for Hopper GPUs products with fused epilogues, in bfloat16 and for at most four members
    (else OlaError). `xla` leaves the fusion to the compiler, and takes everything. `auto` is `xla`: the
    products leave little room for anything else, and no kernel has shown yet that it is faster
    (docs/performance.md). Products are in x's dtype; sums, GELU and softmax of the kernels in float32.
    `interpret` runs the kernels of `kernels` (default: of the devices, on a CPU those for TPUs) on any
    platform, slowly.
    """
    groups = x.reshape(-1, *x.shape[-2:])
    if implementation != "pallas":
        pooled = pool_xla(groups, params)
    elif (kernels or platform()) == "gpu":
        from ola_jax.kernels import local_global_pool_hopper as hopper

        hopper.check(x.shape[-2], x.dtype, interpret)
        pooled = pool_hopper(interpret, groups, params)
    else:
        pooled = pool_tpu(interpret, groups, params)
    return pooled.reshape(*x.shape[:-2], x.shape[-1])


def pool_xla(x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The mathematics, in plain JAX."""
    local, of_mean = jnp.split(params.kernel1, 2, axis=0)
    from_mean = x.mean(axis=1) @ of_mean + params.bias1
    from_each = (x.reshape(-1, x.shape[-1]) @ local).reshape(x.shape)
    hidden = jax.nn.gelu(from_each + from_mean[:, None], approximate=False)
    scores = (hidden.reshape(-1, x.shape[-1]) @ params.kernel2).reshape(x.shape)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1).astype(x.dtype)
    return (x * weights).sum(axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pool_tpu(interpret: bool, x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The kernels for TPUs, forward and backward."""
    return _forward_tpu(interpret, x, params)[0]


def _forward_tpu(interpret: bool, x: Array, params: PoolParams) -> tuple[Array, tuple[Array, PoolParams]]:
    """Channels are padded to whole lanes; zeros stay zeros all the way through."""
    from ola_jax.kernels import local_global_pool_tpu as tpu

    pooled = tpu.pool(_member_major(x), *_pad_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]], (x, params)


def _backward_tpu(
    interpret: bool, saved: tuple[Array, PoolParams], grad: Float[Array, "G D"]
) -> tuple[Array, PoolParams]:
    from ola_jax.kernels import local_global_pool_tpu as tpu

    x, params = saved
    of_x, *of_params = tpu.pool_backward(
        _member_major(x), *_pad_params(params), _pad_to_lanes(grad, (1,)), interpret=interpret
    )
    return jnp.swapaxes(of_x, 0, 1)[..., : x.shape[-1]], _crop(of_params, params)


pool_tpu.defvjp(_forward_tpu, _backward_tpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pool_hopper(interpret: bool, x: Float[Array, "G n D"], params: PoolParams) -> Float[Array, "G D"]:
    """The kernels for Hopper GPUs, forward and backward."""
    from ola_jax.kernels import local_global_pool_hopper as hopper

    pooled, _ = hopper.pool(_pad_to_lanes(x, (2,)), *_pad_params(params), interpret=interpret)
    return pooled[:, : x.shape[-1]]


def _forward_hopper(
    interpret: bool, x: Array, params: PoolParams
) -> tuple[Array, tuple[tuple[Array, ...], PoolParams]]:
    from ola_jax.kernels import local_global_pool_hopper as hopper

    padded = _pad_to_lanes(x, (2,))
    pooled, saved = hopper.pool(padded, *_pad_params(params), save=True, interpret=interpret)
    return pooled[:, : x.shape[-1]], (saved, params)


def _backward_hopper(
    interpret: bool, saved: tuple[tuple[Array, ...], PoolParams], grad: Float[Array, "G D"]
) -> tuple[Array, PoolParams]:
    from ola_jax.kernels import local_global_pool_hopper as hopper

    activations, params = saved
    local, of_mean, _, kernel2 = _pad_params(params)
    of_x, *of_params = hopper.pool_backward(
        activations, local, of_mean, kernel2, _pad_to_lanes(grad, (1,)), interpret=interpret
    )
    return of_x[..., : grad.shape[-1]], _crop(of_params, params)


pool_hopper.defvjp(_forward_hopper, _backward_hopper)


def _member_major(x: Float[Array, "G n D"]) -> Float[Array, "n G Dp"]:
    """Members as the leading axis: what is taken over them then needs no shuffling of registers."""
    return _pad_to_lanes(jnp.swapaxes(x, 0, 1), (2,))


def _pad_params(params: PoolParams) -> tuple[Array, Array, Array, Array]:
    """The matrices local [Dp, Dp], of_mean [Dp, Dp], bias1 [Dp], kernel2 [Dp, Dp]."""
    local, of_mean = jnp.split(params.kernel1, 2, axis=0)
    square = functools.partial(_pad_to_lanes, axes=(0, 1))
    return square(local), square(of_mean), _pad_to_lanes(params.bias1, (0,)), square(params.kernel2)


def _crop(gradients: list[Array], like: PoolParams) -> PoolParams:
    """Gradients of what _pad_params makes, as those of the parameters."""
    local, of_mean, bias1, kernel2 = gradients
    width = like.bias1.shape[0]
    kernel1 = jnp.concatenate([local[:width, :width], of_mean[:width, :width]])
    of_params = PoolParams(kernel1, bias1[:width], kernel2[:width, :width])
    return jax.tree.map(lambda gradient, parameter: gradient.astype(parameter.dtype), of_params, like)


def _pad_to_lanes(x: Array, axes: tuple[int, ...]) -> Array:
    """Zeros at the end of `axes`, up to the next multiple of LANES."""
    widths = [(0, -size % LANES if axis in axes else 0) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(after for _, after in widths) else x
