"""Groups of patches to tokens: the original's local-global attention pooling, and others to compare."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from ola_jax.config import Downsampling
from ola_jax.kernels.local_global_pool import Implementation, PoolParams, local_global_pool
from ola_jax.models.layers import linear, parameter
from ola_jax.sharding import gather_weight, map_window_shards
from ola_jax.typing import Array, DTypeLike, Float

KERNEL_AXES = ("embed", "features")


class LocalGlobalPooling(nn.Module):
    """Groups of patches to tokens. The bias of `predictor_2` is stored but unused: softmax cancels it."""

    dtype: DTypeLike = jnp.float32
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "*b n D"]) -> Float[Array, "*b D"]:
        """Pools the n members of each group."""
        width = x.shape[-1]
        first = _Parameters(2 * width, width, name="predictor_0")()
        second = _Parameters(width, width, name="predictor_2")()
        gather = lambda kernel: gather_weight(kernel.astype(self.dtype), KERNEL_AXES)
        params = PoolParams(gather(first[0]), first[1].astype(self.dtype), gather(second[0]))
        pool = functools.partial(local_global_pool, implementation=self.implementation)
        return map_window_shards(pool, x, params) if self.implementation == "pallas" else pool(x, params)


class MeanPooling(nn.Module):
    """The mean of each group."""

    def __call__(self, x: Float[Array, "*b n D"]) -> Float[Array, "*b D"]:
        """Pools the n members of each group."""
        return x.mean(axis=-2)


class StridedConvolution(nn.Module):
    """A convolution whose kernel and stride are one group: a linear layer on its members side by side."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b n D"]) -> Float[Array, "*b D"]:
        """Pools the n members of each group."""
        width = x.shape[-1]
        return linear(width, KERNEL_AXES, self.dtype, name="conv")(x.reshape(*x.shape[:-2], -1))


def make_pooling(
    kind: Downsampling, dtype: DTypeLike, implementation: Implementation
) -> LocalGlobalPooling | StridedConvolution | MeanPooling | None:
    """The module for a kind of downsampling; None for none."""
    if kind == "local_global":
        return LocalGlobalPooling(dtype, implementation)
    if kind == "conv":
        return StridedConvolution(dtype)
    return MeanPooling() if kind == "mean" else None


class _Parameters(nn.Module):
    """A kernel and a bias, without their product, because pooling splits the kernel."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "inputs outputs"], Float[Array, "outputs"]]:
        init, shape = nn.initializers.lecun_normal(), (self.inputs, self.outputs)
        kernel = parameter(self, "kernel", init, KERNEL_AXES, shape)
        return kernel, parameter(self, "bias", nn.initializers.zeros, ("features",), (self.outputs,))
