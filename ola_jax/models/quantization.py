"""int8 for serving: the decoder's weights with a scale per output, keys and values with one per head.

Symmetric, rounded to nearest: 127 steps on each side of zero up to the largest value. Of the weights, the
matrices of the decoder's layers and its output matrix are int8; embeddings, norms, biases, the encoders and
the projectors stay as they are.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from ola_jax.typing import Array, Float, Int8, Params

STEPS = 127


def quantize(x: Float[Array, "..."], axis: int) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """The nearest int8 multiples of a float32 scale; x is about `int8 * scale`, with `axis` put back.

    An element is off by at most half a scale, which is the largest of those along `axis` over 127.
    """
    x = x.astype(jnp.float32)
    largest = jnp.abs(x).max(axis=axis, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1) / STEPS
    return jnp.round(x / scale).astype(jnp.int8), scale.squeeze(axis)


def is_quantizable(path: str) -> bool:
    """True for the path of a weight that `quantize_weights` makes int8."""
    return path.startswith("llm/") and path.endswith("/kernel")


def quantize_weights(params: Params) -> Params:
    """The parameters with int8 kernels in the decoder, each with its `scale` beside it.

    Kernels that are int8 already stay; the others are converted one at a time.
    """
    flat = dict(traverse_util.flatten_dict(params, sep="/"))
    for path in [path for path in flat if is_quantizable(path) and flat[path].dtype != jnp.int8]:
        flat[path], flat[scale_path(path)] = quantize_kernel(jnp.asarray(flat[path]))
    return traverse_util.unflatten_dict(flat, sep="/")


@jax.jit
def quantize_kernel(kernel: Float[Array, "*l D E"]) -> tuple[Int8[Array, "*l D E"], Float[Array, "*l E"]]:
    """The int8 kernel of a layer, or of stacked ones, and the scale of each output."""
    return quantize(kernel, axis=-2)


def abstract_quantized(boxed: Params) -> Params:
    """Shapes and axis names of the parameters that `quantize_weights` makes of these (`abstract_params`)."""
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
    flat = dict(traverse_util.flatten_dict(boxed, sep="/", is_leaf=lambda _, leaf: is_box(leaf)))
    for path in [path for path in flat if is_quantizable(path)]:
        box: Any = flat[path]
        kernel, scale = jax.eval_shape(functools.partial(quantize, axis=-2), box.unbox())
        flat[path] = box.replace_boxed(kernel)
        flat[scale_path(path)] = box.replace(value=scale, names=(*box.names[:-2], box.names[-1]))
    return traverse_util.unflatten_dict(flat, sep="/")


def scale_path(path: str) -> str:
    """The path of the scale that belongs to a kernel."""
    return path.removesuffix("kernel") + "scale"
