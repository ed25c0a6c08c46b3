"""Parts that several models share: parameters, linear layers and norms with named axes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from ola_jax.config import Remat
from ola_jax.models.remat import checkpoint_policy
from ola_jax.sharding import axis_size, gather_weight
from ola_jax.typing import Array, DTypeLike, Float, Int8


def parameter(
    module: nn.Module,
    name: str,
    init: Callable[..., Array],
    axes: tuple[str | None, ...],
    *init_args: Any,
) -> Array:
    """A parameter of `module` with logical axis names; its first value is `init(key, *init_args)`."""
    boxed: Callable[..., Any] = nn.with_logical_partitioning(init, axes)  # module.param unboxes it
    return jnp.asarray(module.param(name, boxed, *init_args))


class Linear(nn.Module):
    """A dense layer whose [in, out] kernel has the logical axis names `axes`.

    With a `scale` among its parameters, the kernel is int8 (`models.quantization`).
    """

    features: int
    axes: tuple[str | None, str | None]
    dtype: DTypeLike
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        """The product with the kernel, plus the bias."""
        shape, init = (x.shape[-1], self.features), nn.initializers.lecun_normal()
        kernel = parameter(self, "kernel", init, self.axes, shape, jnp.float32)
        bias: Array | None = None
        if self.use_bias:
            zeros = nn.initializers.zeros
            bias = parameter(self, "bias", zeros, self.axes[1:], shape[1:], jnp.float32)
        if self.has_variable("params", "scale"):
            return self._scaled(x.astype(self.dtype), kernel, bias)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = product(x, gather_weight(kernel, self.axes))
        return y if bias is None else y + bias.reshape(*[1] * (y.ndim - 1), -1)

    def _scaled(
        self, x: Float[Array, "*b D"], kernel: Int8[Array, "D E"], bias: Float[Array, "E"] | None
    ) -> Float[Array, "*b E"]:
        # The scale belongs to an output: applied behind the product, it leaves the kernel int8 in memory.
        y = product(x, gather_weight(kernel, self.axes).astype(x.dtype), jnp.float32)
        y = y * jnp.asarray(self.get_variable("params", "scale"))
        return (y if bias is None else y + bias).astype(x.dtype)


def linear(
    features: int,
    axes: tuple[str | None, str | None],
    dtype: DTypeLike,
    *,
    bias: bool = True,
    name: str | None = None,
) -> Linear:
    """A dense layer."""
    return Linear(features, axes, dtype, bias, name=name)


def product(
    x: Float[Array, "*b D"], kernel: Float[Array, "D E"], out: DTypeLike | None = None
) -> Float[Array, "*b E"]:
    """Product with a kernel, in dtype `out`; the leading axes of `x` are flattened where that moves no data.

    The kernel's gradient then contracts one axis instead of several, which XLA's CPU backend does
    many times faster. Where the tokens of a row are split over devices, flattening would move them.
    """
    if axis_size("context") > 1:
        return jnp.matmul(x, kernel, preferred_element_type=out)
    rows = x.reshape(-1, x.shape[-1])
    flat = jax.lax.dot(rows, kernel, preferred_element_type=out)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def layer_norm(epsilon: float, name: str | None = None) -> nn.LayerNorm:
    """Layer norm, computed and returned in float32, with the two-pass variance of PyTorch."""
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


def gelu(x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """The exact (erf) GELU, which every part of Ola uses."""
    return jax.nn.gelu(x, approximate=False)


def stack_layers(
    block: type[nn.Module], length: int, remat: Remat, *, in_axes: tuple[Any, ...] = ()
) -> Callable[..., nn.Module]:
    """Stacks `length` copies of `block` as one scanned layer, with parameters stacked on a leading axis.

    `block.__call__(x, *inputs)` returns `(x, output)`; `in_axes` has, for each further input, 0 if
    every layer has its own slice, or nn.broadcast if all have the same.
    """
    if remat != "none":
        block = nn.remat(block, prevent_cse=False, policy=checkpoint_policy(remat))
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
