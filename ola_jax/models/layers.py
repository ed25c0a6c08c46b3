"""Parts that several models share: parameters, linear layers and norms with named axes."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from ola_jax.sharding import axis_size, gather_weight
from ola_jax.typing import Array, DTypeLike, Float

Remat = Literal["none", "full", "dots"]  # what the backward pass recomputes, as in OlaConfig


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


class Linear(nn.Dense):
    """A dense layer; with a `scale` among its parameters the kernel is int8 (`models.quantization`)."""

    axes: tuple[str | None, str | None] = (None, None)

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        """The product with the kernel, plus the bias."""
        if not self.has_variable("params", "scale"):
            return super().__call__(x)
        kernel, scale = (jnp.asarray(self.get_variable("params", name)) for name in ("kernel", "scale"))
        x = x.astype(self.dtype)
        # The scale belongs to an output: applied behind the product, it leaves the kernel int8 in memory.
        y = product(x, gather_weight(kernel, self.axes).astype(x.dtype), out=jnp.float32) * scale
        if self.use_bias:
            y = y + jnp.asarray(self.get_variable("params", "bias"))
        return y.astype(x.dtype)


def linear(
    features: int,
    axes: tuple[str | None, str | None],
    dtype: DTypeLike,
    *,
    bias: bool = True,
    name: str | None = None,
) -> Linear:
    """A dense layer whose [in, out] kernel has the logical axis names `axes`."""
    return Linear(
        features,
        axes=axes,
        use_bias=bias,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        dot_general=lambda x, kernel, *_, precision=None, **__: product(
            x, gather_weight(kernel, axes), precision
        ),
        name=name,
    )


def product(
    x: Float[Array, "*b D"],
    kernel: Float[Array, "D E"],
    precision: PrecisionLike = None,
    out: DTypeLike | None = None,
) -> Float[Array, "*b E"]:
    """Product with a kernel, in dtype `out`; the leading axes of `x` are flattened where that moves no data.

    The kernel's gradient then contracts one axis instead of several, which XLA's CPU backend does
    many times faster. Where the tokens of a row are split over devices, flattening would move them.
    """
    if axis_size("context") > 1:
        return jnp.matmul(x, kernel, precision=precision, preferred_element_type=out)
    rows = x.reshape(-1, x.shape[-1])
    flat = jax.lax.dot(rows, kernel, precision=precision, preferred_element_type=out)
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
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        block = nn.remat(block, prevent_cse=False, policy=policy)
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=in_axes,
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
