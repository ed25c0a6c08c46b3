"""Local-global attention pooling on TPU: the Mosaic kernels, forward and backward.

    n  members of a group       D   channels, a multiple of 128
    G  groups                   Dh  channels of the hidden layer (D as well), cut into tiles

Forward: for a block of groups, whose members stay in VMEM, the hidden layer is made tile by tile and at
once multiplied into the scores, which stay in VMEM too; after the last tile comes the softmax.

Backward, in three steps, as the gradients of the matrices sum over all groups and that of x over all tiles:
1. for each block of groups the scores again, then their gradient;
2. for each tile of the hidden layer, over all blocks: hidden again, the gradients of the matrices'
   slices (which stay in VMEM) and of the hidden layer's input;
3. that one times the first matrix, a plain product, which is the compiler's.

A group of four costs 18 D^2 FLOPs forward and 64 D^2 backward, of which 28 are computed again.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ola_jax.typing import Array, DTypeLike, Float

LANES = 128
SQRT_HALF = 0.5**0.5
INV_SQRT_2PI = 0.3989422804014327


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How much goes through a kernel at a time, and the VMEM that it may take."""

    groups: int
    hidden: int  # a multiple of LANES that divides D
    vmem_bytes: int


def pool(
    x: Float[Array, "n G D"],
    local: Float[Array, "D Dh"],
    of_mean: Float[Array, "D Dh"],
    bias1: Float[Array, "Dh"],
    kernel2: Float[Array, "Dh D"],
    interpret: bool = False,
    blocks: Blocks | None = None,
) -> Float[Array, "G D"]:
    """Pooled groups, in x's dtype."""
    blocks = blocks or choose_blocks(x.shape, x.dtype, backward=False)
    members, groups, width = x.shape
    return pl.pallas_call(
        _forward_kernel,
        grid=(pl.cdiv(groups, blocks.groups), width // blocks.hidden),
        in_specs=_in_specs(members, width, blocks),
        out_specs=pl.BlockSpec((blocks.groups, width), lambda i, j: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, width), x.dtype),
        scratch_shapes=_scratch(members, width, blocks, x.dtype),
        compiler_params=_compiler_params(blocks, ("parallel", "arbitrary")),
        cost_estimate=_cost(x, 9, reads=1, writes=0, blocks=blocks),
        interpret=interpret,
        name="local_global_pool",
    )(x, local, of_mean, bias1[None], kernel2)


def pool_backward(
    x: Float[Array, "n G D"],
    local: Float[Array, "D Dh"],
    of_mean: Float[Array, "D Dh"],
    bias1: Float[Array, "Dh"],
    kernel2: Float[Array, "Dh D"],
    grad: Float[Array, "G D"],
    interpret: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients of x (in its dtype) and of local, of_mean, bias1, kernel2 (in float32)."""
    blocks = blocks or choose_blocks(x.shape, x.dtype, backward=True)
    members, groups, width = x.shape
    weights = (local, of_mean, bias1[None], kernel2)
    by_block = pl.BlockSpec((members, blocks.groups, width), lambda i, j: (0, i, 0))
    of_scores, direct = pl.pallas_call(
        _scores_gradient_kernel,
        grid=(pl.cdiv(groups, blocks.groups), width // blocks.hidden),
        in_specs=[
            *_in_specs(members, width, blocks),
            pl.BlockSpec((blocks.groups, width), lambda i, j: (i, 0)),
        ],
        out_specs=[by_block, by_block],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        scratch_shapes=_scratch(members, width, blocks, x.dtype),
        compiler_params=_compiler_params(blocks, ("parallel", "arbitrary")),
        cost_estimate=_cost(x, 9, reads=1, writes=2, blocks=blocks),
        interpret=interpret,
        name="local_global_pool_scores_gradient",
    )(x, *weights, grad)

    once = pl.Buffered(1)  # changes with the outer axis only: no second copy in VMEM
    tiles = width // blocks.hidden
    rows = pl.BlockSpec((members, blocks.groups, width), lambda j, i: (0, i, 0))
    inputs = pl.BlockSpec((width, blocks.hidden), lambda j, i: (0, j), pipeline_mode=once)
    hidden = pl.BlockSpec((1, blocks.hidden), lambda j, i: (0, j))
    outputs = pl.BlockSpec((blocks.hidden, width), lambda j, i: (j, 0), pipeline_mode=once)
    square = jax.ShapeDtypeStruct((width, width), jnp.float32)
    of_hidden, local_t, of_mean_t, of_bias1, of_kernel2 = pl.pallas_call(
        functools.partial(_matrices_gradient_kernel, groups),
        grid=(tiles, pl.cdiv(groups, blocks.groups)),
        in_specs=[rows, rows, inputs, inputs, hidden, outputs],
        out_specs=[
            pl.BlockSpec((members, blocks.groups, blocks.hidden), lambda j, i: (0, i, j)),
            outputs,
            outputs,
            hidden,
            outputs,
        ],
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            square,
            square,
            jax.ShapeDtypeStruct((1, width), jnp.float32),
            square,
        ],
        compiler_params=_compiler_params(blocks, ("parallel", "arbitrary")),
        cost_estimate=_cost(x, 18, reads=2 * tiles, writes=1, blocks=blocks),
        interpret=interpret,
        name="local_global_pool_matrices_gradient",
    )(x, of_scores, *weights)

    through_mean = _dot(of_hidden.astype(jnp.float32).sum(axis=0).astype(x.dtype), of_mean, (1, 1)) / members
    flat = of_hidden.reshape(-1, width)
    through_local = _dot(flat, local, (1, 1)).reshape(x.shape)
    of_x = (direct.astype(jnp.float32) + through_local + through_mean).astype(x.dtype)
    return of_x, local_t.T, of_mean_t.T, of_bias1[0], of_kernel2


def choose_blocks(
    shape: tuple[int, int, int], dtype: DTypeLike, backward: bool, vmem_bytes: int | None = None
) -> Blocks:
    """The largest blocks that fit into VMEM (None: of the TPU compiled for; the smallest if that is unknown).

    More groups at a time read the matrices less often; wider tiles read x less often.
    """
    capacity = vmem_bytes or _vmem_of_target()
    members, groups, width = shape
    itemsize = jnp.dtype(dtype).itemsize
    packed = 32 // itemsize  # rows of one register tile
    most = -(-groups // packed) * packed
    needed = _backward_bytes if backward else _forward_bytes
    for rows, hidden in ((256, 256), (128, 256), (128, 128), (64, 128), (32, 128), (16, 128), (8, 128)):
        hidden = hidden if width % hidden == 0 else LANES
        rows = min(max(rows, packed), most)
        blocks = Blocks(rows, hidden, capacity)
        if needed(blocks, members, width, itemsize) <= 0.85 * capacity:
            return blocks
    return Blocks(packed, LANES, capacity)


def _forward_bytes(b: Blocks, members: int, width: int, itemsize: int) -> int:
    rows = members * b.groups * width
    matrices = 3 * width * b.hidden * itemsize
    temporaries = 2 * rows * 4 + 3 * members * b.groups * b.hidden * 4
    return 2 * rows * itemsize + 2 * matrices + rows * 4 + temporaries


def _backward_bytes(b: Blocks, members: int, width: int, itemsize: int) -> int:
    rows = members * b.groups * width
    tile = width * b.hidden
    scores = _forward_bytes(b, members, width, itemsize) + 4 * rows * itemsize
    matrices = 4 * rows * itemsize + 3 * tile * (itemsize + 4) + 2 * tile * 4 + rows * itemsize
    return max(scores, matrices)


def _vmem_of_target() -> int:
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, RuntimeError):  # compiled elsewhere for a TPU that is not told
        return 16 * 2**20  # v4 has the least


def _compiler_params(blocks: Blocks, semantics: tuple[str, ...]) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=blocks.vmem_bytes)


def _in_specs(members: int, width: int, blocks: Blocks) -> list[pl.BlockSpec]:
    """x, local, of_mean, bias1, kernel2, on a grid (blocks of groups, tiles of the hidden layer)."""
    inputs = pl.BlockSpec((width, blocks.hidden), lambda i, j: (0, j))
    return [
        pl.BlockSpec((members, blocks.groups, width), lambda i, j: (0, i, 0)),
        inputs,
        inputs,
        pl.BlockSpec((1, blocks.hidden), lambda i, j: (0, j)),
        pl.BlockSpec((blocks.hidden, width), lambda i, j: (j, 0)),
    ]


def _scratch(members: int, width: int, blocks: Blocks, dtype: DTypeLike) -> list:
    """The scores so far, and the means of the groups."""
    return [
        pltpu.VMEM((members * blocks.groups, width), jnp.float32),
        pltpu.VMEM((blocks.groups, width), dtype),
    ]


def _cost(x: Array, squares: int, reads: int, writes: int, blocks: Blocks) -> pl.CostEstimate:
    """`squares` * D^2 multiplications a group; `reads` and `writes` of arrays as large as x."""
    _, groups, width = x.shape
    matrices = 3 * width**2 * pl.cdiv(groups, blocks.groups)
    return pl.CostEstimate(
        flops=2 * squares * groups * width**2,
        transcendentals=2 * x.size,
        bytes_accessed=((reads + writes) * x.size + matrices) * x.dtype.itemsize,
    )


def _forward_kernel(x, local, of_mean, bias1, kernel2, out, scores, means) -> None:
    _add_scores(x, local, of_mean, bias1, kernel2, scores, means)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        members = x[...].astype(jnp.float32)
        out[...] = (_softmax(scores[...].reshape(x.shape)) * members).sum(axis=0).astype(out.dtype)


def _scores_gradient_kernel(
    x, local, of_mean, bias1, kernel2, grad, of_scores, direct, scores, means
) -> None:
    _add_scores(x, local, of_mean, bias1, kernel2, scores, means)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        members = x[...].astype(jnp.float32)
        weights = _softmax(scores[...].reshape(x.shape))
        pooled = (weights * members).sum(axis=0)
        passed_on = weights * grad[...].astype(jnp.float32)
        of_scores[...] = (passed_on * (members - pooled)).astype(of_scores.dtype)
        direct[...] = passed_on.astype(direct.dtype)


def _matrices_gradient_kernel(
    groups, x, of_scores, local, of_mean, bias1, kernel2, of_hidden, local_t, of_mean_t, of_bias1, of_kernel2
) -> None:
    members, rows, width = x.shape

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for total in (local_t, of_mean_t, of_bias1, of_kernel2):
            total[...] = jnp.zeros_like(total)

    # The last block may reach beyond the groups: what lies there is not to be added up.
    row = pl.program_id(1) * rows + jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    inside = lambda ref: jnp.where(row < groups, ref[...], jnp.zeros_like(ref))
    x, of_scores = inside(x), inside(of_scores)
    mean = _mean(x)
    before = _before_gelu(x, mean, local, of_mean, bias1)
    cumulative = 0.5 * (1 + jax.lax.erf(before * SQRT_HALF))
    hidden = (before * cumulative).astype(x.dtype)
    slope = cumulative + before * jnp.exp(-0.5 * before * before) * INV_SQRT_2PI
    flat = of_scores.reshape(-1, width)
    of_before = _dot(flat, kernel2[...], (1, 1)) * slope
    of_sum = of_before.reshape(members, rows, -1).sum(axis=0)
    narrow = of_before.astype(x.dtype)
    of_hidden[...] = narrow.reshape(of_hidden.shape)
    of_kernel2[...] += _dot(hidden, flat, (0, 0))
    local_t[...] += _dot(narrow, x.reshape(-1, width), (0, 0))
    of_mean_t[...] += _dot(of_sum.astype(x.dtype), mean, (0, 0))
    of_bias1[...] += of_sum.sum(axis=0, keepdims=True)


def _add_scores(x, local, of_mean, bias1, kernel2, scores, means) -> None:
    """What this tile of the hidden layer adds to the scores."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        scores[...] = jnp.zeros_like(scores)
        means[...] = _mean(x[...])

    before = _before_gelu(x[...], means[...], local, of_mean, bias1)
    hidden = 0.5 * before * (1 + jax.lax.erf(before * SQRT_HALF))
    scores[...] += _dot(hidden.astype(x.dtype), kernel2[...], (1, 0))


def _mean(x: Float[Array, "n g D"]) -> Float[Array, "g D"]:
    return x.astype(jnp.float32).mean(axis=0).astype(x.dtype)


def _before_gelu(x, mean, local, of_mean, bias1) -> Float[Array, "rows h"]:
    members, rows, width = x.shape
    from_mean = _dot(mean, of_mean[...], (1, 0)) + bias1[...].astype(jnp.float32)
    from_each = _dot(x.reshape(-1, width), local[...], (1, 0))
    return (from_each.reshape(members, rows, -1) + from_mean).reshape(members * rows, -1)


def _softmax(scores: Float[Array, "n g D"]) -> Float[Array, "n g D"]:
    raised = jnp.exp(scores - scores.max(axis=0))
    return raised / raised.sum(axis=0)


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "..."]:
    """The product of two matrices along one axis of each, summed in float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), exact, preferred_element_type=jnp.float32
    )
