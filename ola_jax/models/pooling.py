"""The parameters of local-global attention pooling, laid out as in the original."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from ola_jax.kernels.local_global_pool import Implementation, PoolParams, local_global_pool
from ola_jax.sharding import gather_weight, map_window_shards
from ola_jax.typing import Array, DTypeLike, Float

KERNEL_AXES = ("embed", "features")


class LocalGlobalPooling(nn.Module):
    """Groups of patches to tokens; `predictor_2`'s bias cancels in the softmax: stored, never used."""

    dtype: DTypeLike = jnp.float32
    implementation: Implementation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "*b n D"]) -> Float[Array, "*b D"]:
        """Pooled groups."""
        width = x.shape[-1]
        first = _Parameters(2 * width, width, name="predictor_0")()
        second = _Parameters(width, width, name="predictor_2")()
        kernel = lambda k: gather_weight(k.astype(self.dtype), KERNEL_AXES)
        params = PoolParams(kernel(first[0]), first[1].astype(self.dtype), kernel(second[0]))
        pool = functools.partial(local_global_pool, implementation=self.implementation)
        return map_window_shards(pool, x, params) if self.implementation == "pallas" else pool(x, params)


class _Parameters(nn.Module):
    """A kernel and a bias without a product: the pooling takes the kernel apart."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "inputs outputs"], Float[Array, "outputs"]]:
        named = nn.with_logical_partitioning
        kernel = named(nn.initializers.lecun_normal(), KERNEL_AXES)
        bias = named(nn.initializers.zeros, ("features",))
        return (
            self.param("kernel", kernel, (self.inputs, self.outputs)),
            self.param("bias", bias, (self.outputs,)),
        )
