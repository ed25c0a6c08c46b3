"""Local-global attention pooling on Hopper GPUs: products whose epilogues do everything else.

At Ola's width, shared memory cannot hold a block of groups with its hidden layer and its scores, and the
products take ten times as long as moving the hidden layer through memory once. So there is one kernel
(hopper_product.py), a product with an epilogue, and four uses of it:

    forward    hidden = gelu(W1x x + from_mean)                scores never leave the registers:
               pooled = sum of x * softmax(W2 hidden)          softmax and sum are the epilogue
    backward   pre_grad = gelu'(pre_gelu) * (W2 scores_grad)   with hidden again, and the sum over members
               x_grad = W1x pre_grad + the gradients through the sum and through the mean

The other products (of one row per group, and the gradients of the matrices) are left to the compiler.
Nothing is multiplied twice: a group of four costs 18 D^2 FLOPs forward, 36 D^2 backward.

All arrays are laid out for that kernel: transposed, channels by columns.

    n  members of a group, at most 4        D  channels, a multiple of 128
    G  groups, padded to a multiple of 64   R  columns of members, n * G
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ola_jax.errors import OlaError
from ola_jax.kernels.hopper_product import BLOCK, MAX_MEMBERS, Read, Write, product
from ola_jax.kernels.local_global_pool import SplitParams
from ola_jax.typing import Array, DTypeLike, Float

HOPPER = ("H100", "H200", "H800", "H20")  # as in names of devices; the name of GH200 contains one
LOG2_E = 1.4426950408889634
INV_SQRT_2PI = 0.3989422804014327
# Coefficients of log2(exp(x^2 / 2) * normal tail beyond x), by powers of x.
LOG2_OF_TAIL = (
    *(-0.9999998211860657, -1.1511149406433105, 0.26222723722457886, -0.05278468877077103),
    *(0.007508280221372843, -0.0004947088309563696, -3.2478634238941595e-05, 6.119257250247756e-06),
)


class Saved(NamedTuple):
    """Results of the forward pass for the backward pass, all transposed."""

    x: Float[Array, "D R"]
    mean: Float[Array, "D G"]
    pre_gelu: Float[Array, "D R"]
    weights: Float[Array, "D R"]
    pooled: Float[Array, "D G"]


def check_supported(members: int, dtype: DTypeLike, interpret: bool) -> None:
    """Raises OlaError unless the kernels support these arrays and the GPU compiled for."""
    found = ""
    if jnp.dtype(dtype) != jnp.bfloat16:
        found = f"{jnp.dtype(dtype)}, expected bfloat16"
    elif members > MAX_MEMBERS:
        found = f"groups of {members}, expected at most {MAX_MEMBERS}"
    elif not interpret and not any(name in _device_kind() for name in HOPPER):
        found = f"{_device_kind()}, expected a Hopper GPU ({', '.join(HOPPER)})"
    if found:
        raise OlaError(f'pooling: the GPU kernels found {found}; use implementation="xla"')


def pool(x: Float[Array, "G n D"], params: SplitParams, *, interpret: bool = False) -> Float[Array, "G D"]:
    """Pooled groups, in x's dtype (bfloat16)."""
    return _forward(x, params, save=False, interpret=interpret)[0]


def pool_and_save(
    x: Float[Array, "G n D"], params: SplitParams, *, interpret: bool = False
) -> tuple[Float[Array, "G D"], Saved]:
    """Pooled groups, and what the backward pass needs."""
    pooled, saved = _forward(x, params, save=True, interpret=interpret)
    assert saved is not None
    return pooled, saved


def _forward(
    x: Float[Array, "G n D"], params: SplitParams, *, save: bool, interpret: bool
) -> tuple[Float[Array, "G D"], Saved | None]:
    groups, members, width = x.shape
    multiply = functools.partial(product, members=members, interpret=interpret)
    columns = _to_columns(x)
    mean = _by_block(columns, members).astype(jnp.float32).mean(axis=2)
    mean = mean.reshape(width, -1).astype(x.dtype)
    from_mean = _dot(params.mean_kernel, mean, (0, 0)) + params.bias1[:, None].astype(jnp.float32)
    hidden, *pre_gelu = multiply(
        params.local_kernel.T,
        columns,
        by_group=(from_mean.astype(x.dtype),),
        outputs=(True,) * (1 + save),
        epilogue=hidden_epilogue,
        name="local_global_pool_hidden",
    )
    pooled, *weights = multiply(
        params.kernel2.T,
        hidden,
        by_member=(columns,),
        outputs=(False, True)[: 1 + save],
        epilogue=pooled_epilogue,
        name="local_global_pool",
    )
    saved = Saved(columns, mean, pre_gelu[0], weights[0], pooled) if save else None
    return pooled.T[:groups], saved


def pool_backward(
    saved: Saved, params: SplitParams, grad: Float[Array, "G D"], *, interpret: bool = False
) -> tuple[Float[Array, "G n D"], SplitParams]:
    """Gradients of x (in its dtype) and of the parameters (in float32)."""
    x, mean, pre_gelu, weights, pooled = saved
    members = x.shape[1] // pooled.shape[1]
    multiply = functools.partial(product, members=members, interpret=interpret)
    pooled_grad = jnp.pad(grad, [(0, pooled.shape[1] - len(grad)), (0, 0)]).T.astype(x.dtype)
    blocks = lambda a, n: _by_block(a, n).astype(jnp.float32)
    offset = blocks(x, members) - blocks(pooled, 1)
    scores_grad = (blocks(weights, members) * blocks(pooled_grad, 1) * offset).reshape(x.shape)
    scores_grad = scores_grad.astype(x.dtype)
    pre_grad, hidden, sum_grad = multiply(
        params.kernel2,
        scores_grad,
        by_member=(pre_gelu,),
        outputs=(True, True, False),
        epilogue=pre_gelu_gradient_epilogue,
        name="local_global_pool_hidden_gradient",
    )
    through_mean = (_dot(params.mean_kernel, sum_grad, (1, 0)) / members).astype(x.dtype)
    (x_grad,) = multiply(
        params.local_kernel,
        pre_grad,
        by_group=(pooled_grad, through_mean),
        by_member=(weights,),
        outputs=(True,),
        epilogue=x_gradient_epilogue,
        name="local_global_pool_x_gradient",
    )
    params_grad = SplitParams(
        local_kernel=_dot(x, pre_grad, (1, 1)),
        mean_kernel=_dot(mean, sum_grad, (1, 1)),
        bias1=sum_grad.astype(jnp.float32).sum(axis=1),
        kernel2=_dot(hidden, scores_grad, (1, 1)),
    )
    return _from_columns(x_grad, members)[: len(grad)], params_grad


def hidden_epilogue(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the hidden layer and, if requested, the input of its GELU."""
    from_mean = read(0)
    for member, from_member in enumerate(products):
        pre_gelu = from_member + from_mean
        write(0, member, jnp.maximum(pre_gelu, 0) - jnp.abs(pre_gelu) * normal_tail(pre_gelu))
        write(1, member, pre_gelu)


def pooled_epilogue(scores: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the pooled groups and, if requested, the weights of their members."""
    highest = functools.reduce(jnp.maximum, scores)
    exponentials = [jnp.exp2((score - highest) * LOG2_E) for score in scores]
    scale = 1 / functools.reduce(jnp.add, exponentials)
    pooled = jnp.zeros_like(highest)
    for member, value in enumerate(exponentials):
        weight = value * scale
        pooled += weight * read(0, member)
        write(1, member, weight)
    write(0, 0, pooled)


def pre_gelu_gradient_epilogue(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the gradient before GELU, the hidden layer (again), the gradient's sum over the members."""
    total = jnp.zeros_like(products[0])
    for member, hidden_grad in enumerate(products):
        pre_gelu = read(0, member)
        tail, bell = normal_tail(pre_gelu), jnp.exp2(pre_gelu * pre_gelu * (-0.5 * LOG2_E)) * INV_SQRT_2PI
        grad = hidden_grad * (jnp.where(pre_gelu < 0, tail, 1 - tail) + pre_gelu * bell)
        total += grad
        write(0, member, grad)
        write(1, member, jnp.maximum(pre_gelu, 0) - jnp.abs(pre_gelu) * tail)
    write(2, 0, total)


def x_gradient_epilogue(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the gradient of x: through the scores, through the mean, and of the weighted sum itself."""
    pooled_grad, through_mean = read(0), read(1)
    for member, through_scores in enumerate(products):
        write(0, member, through_scores + through_mean + pooled_grad * read(2, member))


def normal_tail(x: Array) -> Array:
    """Probability that a standard normal variable exceeds |x|; within 2e-7.

    It is exp(-x^2 / 2) times a slowly varying function, whose logarithm is a polynomial here (least
    squares, |x| below 5). This takes a third of the instructions of the exact function, and those of an
    epilogue count, as no product hides them.
    """
    near = jnp.minimum(jnp.abs(x), 5.0)
    logarithm = jnp.full_like(x, LOG2_OF_TAIL[-1])
    for coefficient in reversed(LOG2_OF_TAIL[:-1]):
        logarithm = logarithm * near + coefficient
    return jnp.exp2(x * x * (-0.5 * LOG2_E) + logarithm)


def _device_kind() -> str:
    device = jax.sharding.get_abstract_mesh().abstract_device
    return (device or jax.devices()[0]).device_kind


def _to_columns(x: Float[Array, "G n D"]) -> Float[Array, "D R"]:
    """Transposes x into blocks of BLOCK groups, member by member, padding the last block with zeros."""
    groups, members, width = x.shape
    x = jnp.pad(x, [(0, -groups % BLOCK), (0, 0), (0, 0)])
    return x.reshape(-1, BLOCK, members, width).transpose(3, 0, 2, 1).reshape(width, -1)


def _from_columns(x: Float[Array, "D R"], members: int) -> Float[Array, "G n D"]:
    """The inverse of _to_columns, but for the padding."""
    return _by_block(x, members).transpose(1, 3, 2, 0).reshape(-1, members, len(x))


def _by_block(x: Float[Array, "D R"], members: int) -> Float[Array, "D blocks n 64"]:
    return x.reshape(len(x), -1, members, BLOCK)


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "..."]:
    """Product of two matrices along one axis of each, summed and returned in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
