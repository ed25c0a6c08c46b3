"""Local-global attention pooling on TPU: the Mosaic kernels, forward and backward.

    n  members of a group       D   channels, a multiple of 128
    G  groups                   Dh  channels of the hidden layer (D as well), cut into tiles

Forward: for a block of groups, whose members stay in VMEM, the hidden layer is computed tile by tile. Each
tile is multiplied into the scores at once, which also stay in VMEM; after the last tile comes the softmax.

Backward, in three steps, as the gradients of the matrices sum over all groups and that of x over all tiles:
1. for each block of groups: the scores again, then their gradient;
2. for each tile of the hidden layer, over all blocks: the hidden layer again, the gradients of the
   matrices' slices (which stay in VMEM) and of the hidden layer's input;
3. the latter times the first matrix: a plain product, left to the compiler.

A group of four costs 18 D^2 FLOPs forward and 64 D^2 backward, 28 of these for recomputation.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ola_jax.kernels.local_global_pool import LANES, SplitParams
from ola_jax.typing import Array, DTypeLike, Float

SQRT_HALF = 0.5**0.5
INV_SQRT_2PI = 0.3989422804014327

Ref = Any  # an array in memory, as Pallas passes it to a kernel


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of what a kernel works on at a time, and the VMEM that it may use."""

    groups: int
    hidden: int  # a multiple of LANES that divides D
    vmem_bytes: int


def pool(
    x: Float[Array, "n G D"],
    params: SplitParams,
    *,
    interpret: bool = False,
    blocks: Blocks | None = None,
) -> Float[Array, "G D"]:
    """Pooled groups, in x's dtype."""
    members, groups, width = x.shape
    blocks = blocks or choose_blocks((members, groups, width), x.dtype, backward=False)
    return pl.pallas_call(
        _forward_kernel,
        grid=(pl.cdiv(groups, blocks.groups), width // blocks.hidden),
        in_specs=_in_specs(members, width, blocks),
        out_specs=pl.BlockSpec((blocks.groups, width), lambda i, j: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, width), x.dtype),
        scratch_shapes=_scratch(members, width, blocks, x.dtype),
        compiler_params=_compiler_params(blocks, "parallel", "arbitrary"),
        cost_estimate=_cost(x, 9, reads=1, writes=0, blocks=blocks),
        interpret=interpret,
        name="local_global_pool",
    )(x, *_kernel_inputs(params))


def pool_backward(
    x: Float[Array, "n G D"],
    params: SplitParams,
    grad: Float[Array, "G D"],
    *,
    interpret: bool = False,
    blocks: Blocks | None = None,
) -> tuple[Float[Array, "n G D"], SplitParams]:
    """Gradients of x (in its dtype) and of the parameters (in float32)."""
    members, groups, width = x.shape
    blocks = blocks or choose_blocks((members, groups, width), x.dtype, backward=True)
    weights = _kernel_inputs(params)
    by_block = pl.BlockSpec((members, blocks.groups, width), lambda i, j: (0, i, 0))
    scores_grad, direct = pl.pallas_call(
        _scores_gradient_kernel,
        grid=(pl.cdiv(groups, blocks.groups), width // blocks.hidden),
        in_specs=[
            *_in_specs(members, width, blocks),
            pl.BlockSpec((blocks.groups, width), lambda i, j: (i, 0)),
        ],
        out_specs=[by_block, by_block],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        scratch_shapes=_scratch(members, width, blocks, x.dtype),
        compiler_params=_compiler_params(blocks, "parallel", "arbitrary"),
        cost_estimate=_cost(x, 9, reads=1, writes=2, blocks=blocks),
        interpret=interpret,
        name="local_global_pool_scores_gradient",
    )(x, *weights, grad)

    once = pl.Buffered(1)  # changes with the outer axis only: needs no second copy in VMEM
    tiles = width // blocks.hidden
    rows = pl.BlockSpec((members, blocks.groups, width), lambda j, i: (0, i, 0))
    inputs = pl.BlockSpec((width, blocks.hidden), lambda j, i: (0, j), pipeline_mode=once)
    hidden = pl.BlockSpec((1, blocks.hidden), lambda j, i: (0, j))
    outputs = pl.BlockSpec((blocks.hidden, width), lambda j, i: (j, 0), pipeline_mode=once)
    square = jax.ShapeDtypeStruct((width, width), jnp.float32)
    pre_gelu_grad, local_grad_t, mean_grad_t, bias1_grad, kernel2_grad = pl.pallas_call(
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
        compiler_params=_compiler_params(blocks, "parallel", "arbitrary"),
        cost_estimate=_cost(x, 18, reads=2 * tiles, writes=1, blocks=blocks),
        interpret=interpret,
        name="local_global_pool_matrices_gradient",
    )(x, scores_grad, *weights)

    sum_grad = pre_gelu_grad.astype(jnp.float32).sum(axis=0).astype(x.dtype)
    through_mean = _dot(sum_grad, params.mean_kernel, (1, 1)) / members
    flat = pre_gelu_grad.reshape(-1, width)
    through_local = _dot(flat, params.local_kernel, (1, 1)).reshape(x.shape)
    x_grad = (direct.astype(jnp.float32) + through_local + through_mean).astype(x.dtype)
    return x_grad, SplitParams(local_grad_t.T, mean_grad_t.T, bias1_grad[0], kernel2_grad)


def choose_blocks(
    shape: tuple[int, int, int], dtype: DTypeLike, *, backward: bool, vmem_bytes: int | None = None
) -> Blocks:
    """The largest blocks for x of `shape` [n, G, D] that fit into VMEM (default: of the target TPU).

    More groups at a time read the matrices less often; wider tiles read x less often.
    """
    capacity = vmem_bytes or _target_vmem_bytes()
    members, groups, width = shape
    itemsize = jnp.dtype(dtype).itemsize
    packed = 32 // itemsize  # rows of one register tile
    all_rows = -(-groups // packed) * packed
    needed = _backward_bytes if backward else _forward_bytes
    for rows, hidden in ((256, 256), (128, 256), (128, 128), (64, 128), (32, 128), (16, 128), (8, 128)):
        hidden = hidden if width % hidden == 0 else LANES
        rows = min(max(rows, packed), all_rows)
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


def _target_vmem_bytes() -> int:
    """VMEM of the TPU compiled for; the least of all TPUs if that is unknown."""
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, RuntimeError):  # no TPU here, and none named to the compiler
        return 16 * 2**20  # of v4


def _kernel_inputs(params: SplitParams) -> tuple[Array, Array, Array, Array]:
    """The parameters as inputs of a kernel, which takes matrices only."""
    return params.local_kernel, params.mean_kernel, params.bias1[None], params.kernel2


def _compiler_params(blocks: Blocks, *semantics: Literal["parallel", "arbitrary"]) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=blocks.vmem_bytes)


def _in_specs(members: int, width: int, blocks: Blocks) -> list[pl.BlockSpec]:
    """Blocks of x and the parameters, on a grid (blocks of groups, tiles of the hidden layer)."""
    inputs = pl.BlockSpec((width, blocks.hidden), lambda i, j: (0, j))
    return [
        pl.BlockSpec((members, blocks.groups, width), lambda i, j: (0, i, 0)),
        inputs,
        inputs,
        pl.BlockSpec((1, blocks.hidden), lambda i, j: (0, j)),
        pl.BlockSpec((blocks.hidden, width), lambda i, j: (j, 0)),
    ]


def _scratch(members: int, width: int, blocks: Blocks, dtype: np.dtype) -> list[pl.MemoryRef]:
    """Accumulated scores, and the means of the groups."""
    return [
        pltpu.VMEM((members * blocks.groups, width), np.dtype(np.float32)),
        pltpu.VMEM((blocks.groups, width), dtype),
    ]


def _cost(x: Array, squares: int, *, reads: int, writes: int, blocks: Blocks) -> pl.CostEstimate:
    """Cost of `squares` * D^2 multiplications per group, with `reads` and `writes` of arrays of x's size."""
    _, groups, width = x.shape
    matrices = 3 * width**2 * pl.cdiv(groups, blocks.groups)
    return pl.CostEstimate(
        flops=2 * squares * groups * width**2,
        transcendentals=2 * x.size,
        bytes_accessed=((reads + writes) * x.size + matrices) * x.dtype.itemsize,
    )


def _forward_kernel(
    x: Ref,
    local_kernel: Ref,
    mean_kernel: Ref,
    bias1: Ref,
    kernel2: Ref,
    out: Ref,
    scores: Ref,
    means: Ref,
) -> None:
    _add_scores(x, (local_kernel, mean_kernel, bias1, kernel2), scores, means)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        members = x[...].astype(jnp.float32)
        out[...] = (_softmax(scores[...].reshape(x.shape)) * members).sum(axis=0).astype(out.dtype)


def _scores_gradient_kernel(
    x: Ref,
    local_kernel: Ref,
    mean_kernel: Ref,
    bias1: Ref,
    kernel2: Ref,
    grad: Ref,
    scores_grad: Ref,
    direct: Ref,
    scores: Ref,
    means: Ref,
) -> None:
    _add_scores(x, (local_kernel, mean_kernel, bias1, kernel2), scores, means)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _() -> None:
        members = x[...].astype(jnp.float32)
        weights = _softmax(scores[...].reshape(x.shape))
        pooled = (weights * members).sum(axis=0)
        weighted_grad = weights * grad[...].astype(jnp.float32)
        scores_grad[...] = (weighted_grad * (members - pooled)).astype(scores_grad.dtype)
        direct[...] = weighted_grad.astype(direct.dtype)


def _matrices_gradient_kernel(
    groups: int,
    x_ref: Ref,
    scores_grad_ref: Ref,
    local_kernel: Ref,
    mean_kernel: Ref,
    bias1: Ref,
    kernel2: Ref,
    pre_gelu_grad: Ref,
    local_grad_t: Ref,
    mean_grad_t: Ref,
    bias1_grad: Ref,
    kernel2_grad: Ref,
) -> None:
    members, rows, width = x_ref.shape

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for total in (local_grad_t, mean_grad_t, bias1_grad, kernel2_grad):
            total[...] = jnp.zeros_like(total)

    # The last block may reach beyond the groups: its other rows must not be added up.
    row = pl.program_id(1) * rows + jax.lax.broadcasted_iota(jnp.int32, x_ref.shape, 1)
    mask = lambda ref: jnp.where(row < groups, ref[...], jnp.zeros_like(ref))
    x, scores_grad = mask(x_ref), mask(scores_grad_ref)
    mean = _mean(x)
    pre_gelu = _pre_gelu(x, mean, (local_kernel, mean_kernel, bias1))
    cumulative = 0.5 * (1 + jax.lax.erf(pre_gelu * SQRT_HALF))
    hidden = (pre_gelu * cumulative).astype(x.dtype)
    slope = cumulative + pre_gelu * jnp.exp(-0.5 * pre_gelu * pre_gelu) * INV_SQRT_2PI
    flat = scores_grad.reshape(-1, width)
    exact = _dot(flat, kernel2[...], (1, 1)) * slope  # gradient before GELU, in float32
    sum_grad = exact.reshape(members, rows, -1).sum(axis=0)
    rounded = exact.astype(x.dtype)
    pre_gelu_grad[...] = rounded.reshape(pre_gelu_grad.shape)
    kernel2_grad[...] += _dot(hidden, flat, (0, 0))
    local_grad_t[...] += _dot(rounded, x.reshape(-1, width), (0, 0))
    mean_grad_t[...] += _dot(sum_grad.astype(x.dtype), mean, (0, 0))
    bias1_grad[...] += sum_grad.sum(axis=0, keepdims=True)


def _add_scores(x: Ref, params: tuple[Ref, Ref, Ref, Ref], scores: Ref, means: Ref) -> None:
    """Adds this tile of the hidden layer to the scores."""
    *first, kernel2 = params

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        scores[...] = jnp.zeros_like(scores)
        means[...] = _mean(x[...])

    pre_gelu = _pre_gelu(x[...], means[...], first)
    hidden = 0.5 * pre_gelu * (1 + jax.lax.erf(pre_gelu * SQRT_HALF))
    scores[...] += _dot(hidden.astype(x.dtype), kernel2[...], (1, 0))


def _mean(x: Float[Array, "n g D"]) -> Float[Array, "g D"]:
    return x.astype(jnp.float32).mean(axis=0).astype(x.dtype)


def _pre_gelu(
    x: Float[Array, "n g D"], mean: Float[Array, "g D"], first_layer: Sequence[Ref]
) -> Float[Array, "rows h"]:
    local_kernel, mean_kernel, bias1 = first_layer
    members, rows, width = x.shape
    from_mean = _dot(mean, mean_kernel[...], (1, 0)) + bias1[...].astype(jnp.float32)
    from_member = _dot(x.reshape(-1, width), local_kernel[...], (1, 0))
    return (from_member.reshape(members, rows, -1) + from_mean).reshape(members * rows, -1)


def _softmax(scores: Float[Array, "n g D"]) -> Float[Array, "n g D"]:
    exponentials = jnp.exp(scores - scores.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def _dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "..."]:
    """The product of two matrices along one axis of each, summed in float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (((contract[0],), (contract[1],)), ((), ())), exact, preferred_element_type=jnp.float32
    )
