"""Local-global attention pooling on Hopper GPUs: products whose epilogues do all the rest.

A block of groups at Ola's width does not fit into shared memory with both its hidden layer and its
scores, and the products take ten times as long as carrying the hidden layer through memory once does.
So there is one kernel (hopper_product.py), a product with an epilogue, and four uses of it:

    forward    hidden = gelu(W1x x + from_mean)              scores never leave the registers:
               pooled = sum of x * softmax(W2 hidden)        softmax and sum are the epilogue
    backward   of_before = gelu'(before) * (W2 of_scores)    with hidden again, and the sum over members
               of_x = W1x of_before + what comes through the sum and through the mean

What remains (products of one row a group, gradients of the matrices) are plain products: the compiler's.
Nothing is multiplied twice: 18 D^2 FLOPs for a group of four forward, 36 D^2 backward.

Everything is kept as that kernel takes it: transposed, channels by columns.

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
from ola_jax.typing import Array, DTypeLike, Float

HOPPER = ("H100", "H200", "H800", "H20")  # as in the names of devices; GH200 has one of them in it
LOG2_E = 1.4426950408889634
INV_SQRT_2PI = 0.3989422804014327
# Of log2(exp(x^2 / 2) * normal tail beyond x), by powers of x.
LOG2_OF_TAIL = (
    *(-0.9999998211860657, -1.1511149406433105, 0.26222723722457886, -0.05278468877077103),
    *(0.007508280221372843, -0.0004947088309563696, -3.2478634238941595e-05, 6.119257250247756e-06),
)


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass, all transposed."""

    x: Float[Array, "D R"]
    mean: Float[Array, "D G"]
    before: Float[Array, "D R"]  # what goes into GELU
    weights: Float[Array, "D R"]
    pooled: Float[Array, "D G"]


def check(members: int, dtype: DTypeLike, interpret: bool) -> None:
    """Raises OlaError where the kernels cannot be used: for these arrays, or on the GPU compiled for."""
    found = ""
    if jnp.dtype(dtype) != jnp.bfloat16:
        found = f"{jnp.dtype(dtype)}, expected bfloat16"
    elif members > MAX_MEMBERS:
        found = f"groups of {members}, expected at most {MAX_MEMBERS}"
    elif not interpret and not any(name in _device_kind() for name in HOPPER):
        found = f"{_device_kind()}, expected a Hopper GPU ({', '.join(HOPPER)})"
    if found:
        raise OlaError(f'pooling: the GPU kernels found {found}; use implementation="xla"')


def pool(
    x: Float[Array, "G n D"],
    local: Float[Array, "D D"],
    of_mean: Float[Array, "D D"],
    bias1: Float[Array, "D"],
    kernel2: Float[Array, "D D"],
    save: bool = False,
    interpret: bool = False,
) -> tuple[Float[Array, "G D"], Saved | None]:
    """Pooled groups, in x's dtype (bfloat16), and with `save` what the backward pass needs."""
    groups, members, width = x.shape
    of_product = functools.partial(product, members=members, interpret=interpret)
    columns = _to_columns(x)
    mean = _by_block(columns, members).astype(jnp.float32).mean(axis=2)
    mean = mean.reshape(width, -1).astype(x.dtype)
    from_mean = (_dot(of_mean, mean, (0, 0)) + bias1[:, None].astype(jnp.float32)).astype(x.dtype)
    hidden, *before = of_product(
        local.T, columns, (from_mean,), (), (True,) * (1 + save), _hidden, name="local_global_pool_hidden"
    )
    pooled, *weights = of_product(
        kernel2.T, hidden, (), (columns,), (False, True)[: 1 + save], _pooled, name="local_global_pool"
    )
    saved = Saved(columns, mean, before[0], weights[0], pooled) if save else None
    return pooled.T[:groups], saved


def pool_backward(
    saved: Saved,
    local: Float[Array, "D D"],
    of_mean: Float[Array, "D D"],
    kernel2: Float[Array, "D D"],
    grad: Float[Array, "G D"],
    interpret: bool = False,
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of x (in its dtype) and of local, of_mean, bias1, kernel2 (in float32)."""
    x, mean, before, weights, pooled = saved
    members = x.shape[1] // pooled.shape[1]
    of_product = functools.partial(product, members=members, interpret=interpret)
    of_pooled = jnp.pad(grad, [(0, pooled.shape[1] - len(grad)), (0, 0)]).T.astype(x.dtype)
    blocks = lambda a, n: _by_block(a, n).astype(jnp.float32)
    distance = blocks(x, members) - blocks(pooled, 1)
    of_scores = (blocks(weights, members) * blocks(of_pooled, 1) * distance).reshape(x.shape).astype(x.dtype)
    of_before, hidden, of_sum = of_product(
        kernel2, of_scores, (), (before,), (True, True, False), _of_before, name="local_global_pool_of_hidden"
    )
    through_mean = (_dot(of_mean, of_sum, (1, 0)) / members).astype(x.dtype)
    (of_x,) = of_product(
        local, of_before, (of_pooled, through_mean), (weights,), (True,), _of_x, name="local_global_pool_of_x"
    )
    return (
        _from_columns(of_x, members)[: len(grad)],
        _dot(x, of_before, (1, 1)),
        _dot(mean, of_sum, (1, 1)),
        of_sum.astype(jnp.float32).sum(axis=1),
        _dot(hidden, of_scores, (1, 1)),
    )


def _hidden(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the hidden layer and, where asked for, what goes into GELU."""
    from_mean = read(0)
    for member, from_each in enumerate(products):
        before = from_each + from_mean
        write(0, member, jnp.maximum(before, 0) - jnp.abs(before) * _normal_tail(before))
        write(1, member, before)


def _pooled(scores: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the pooled groups and, where asked for, the weights of their members."""
    highest = functools.reduce(jnp.maximum, scores)
    raised = [jnp.exp2((score - highest) * LOG2_E) for score in scores]
    scale = 1 / functools.reduce(jnp.add, raised)
    pooled = jnp.zeros_like(highest)
    for member, value in enumerate(raised):
        weight = value * scale
        pooled += weight * read(0, member)
        write(1, member, weight)
    write(0, 0, pooled)


def _of_before(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the gradient before GELU, the hidden layer (again), the gradient's sum over the members."""
    total = jnp.zeros_like(products[0])
    for member, of_hidden in enumerate(products):
        before = read(0, member)
        tail, bell = _normal_tail(before), jnp.exp2(before * before * (-0.5 * LOG2_E)) * INV_SQRT_2PI
        of_before = of_hidden * (jnp.where(before < 0, tail, 1 - tail) + before * bell)
        total += of_before
        write(0, member, of_before)
        write(1, member, jnp.maximum(before, 0) - jnp.abs(before) * tail)
    write(2, 0, total)


def _of_x(products: Sequence[Array], read: Read, write: Write) -> None:
    """Writes the gradient of x: through the scores, through the mean, and of the weighted sum itself."""
    of_pooled, through_mean = read(0), read(1)
    for member, through_scores in enumerate(products):
        write(0, member, through_scores + through_mean + of_pooled * read(2, member))


def _normal_tail(x: Array) -> Array:
    """Of the normal distribution, what lies beyond |x| on one side; within 2e-7.

    That is exp(-x^2 / 2) times a slow function, whose logarithm is a polynomial here (least squares,
    |x| below 5). It takes a third of the instructions of the exact function, and instructions of the
    epilogue count: nothing hides them behind the product.
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
    """Transposed, in blocks of BLOCK groups, member by member; zeros fill the last block."""
    groups, members, width = x.shape
    x = jnp.pad(x, [(0, -groups % BLOCK), (0, 0), (0, 0)])
    return x.reshape(-1, BLOCK, members, width).transpose(3, 0, 2, 1).reshape(width, -1)


def _from_columns(x: Float[Array, "D R"], members: int) -> Float[Array, "G n D"]:
    """The inverse of _to_columns; the last block is left full."""
    return _by_block(x, members).transpose(1, 3, 2, 0).reshape(-1, members, len(x))


def _by_block(x: Float[Array, "D R"], members: int) -> Float[Array, "D blocks n 64"]:
    return x.reshape(len(x), -1, members, BLOCK)


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "..."]:
    """The product of two matrices along one axis of each, summed and kept in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
