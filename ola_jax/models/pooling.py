"""Local-global attention pooling: four neighbouring patches become one token.

With x the four and g their mean, scores = W2 gelu(W1 [x, g] + b1) + b2, softmax over the four for
each channel, then the weighted sum (arXiv 2502.04328, section 3.2; the original's
pooler_projector.py). W1 [x, g] = W1x x + W1g g, and W1g g is the same for all four: it is computed
once. b2 adds the same to all four and cancels in the softmax: it is left out, its gradient is zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ola_jax.models.layers import gelu
from ola_jax.sharding import gather
from ola_jax.typing import Array, DTypeLike, Float

KERNEL_AXES = ("embed", "features")


def local_global_pool(
    x: Float[Array, "*b n D"],
    kernel1: Float[Array, "2*D D"],
    bias1: Float[Array, "D"],
    kernel2: Float[Array, "D D"],
) -> Float[Array, "*b D"]:
    """Pool the n members of each group (n = 4 in Ola: a 2x2 block; any n works)."""
    groups = x.reshape(-1, *x.shape[-2:])
    local, glob = jnp.split(kernel1, 2, axis=0)
    from_mean = groups.mean(axis=1) @ glob + bias1
    from_each = (groups.reshape(-1, x.shape[-1]) @ local).reshape(groups.shape)
    hidden = gelu(from_each + from_mean[:, None])
    scores = (hidden.reshape(-1, x.shape[-1]) @ kernel2).reshape(groups.shape)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1).astype(x.dtype)
    return (groups * weights).sum(axis=1).reshape(*x.shape[:-2], x.shape[-1])


class LocalGlobalPooling(nn.Module):
    """The parameters of `local_global_pool`, laid out as in the original."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b n D"]) -> Float[Array, "*b D"]:
        """Pooled groups."""
        width = x.shape[-1]
        first = _Parameters(2 * width, width, name="predictor_0")()
        second = _Parameters(width, width, name="predictor_2")()
        kernel = lambda k: gather(k.astype(self.dtype), KERNEL_AXES)
        return local_global_pool(x, kernel(first[0]), first[1].astype(self.dtype), kernel(second[0]))


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
