"""A product of groups of rows with a matrix on TPUs, with an epilogue over the members of each group.

The result is computed tile by tile (`Tile`), the innermost loop over the channels that are summed. Sums are
float32 and stay in VMEM; the epilogue sees those of all members of a group, and writes what it returns.

    n  members of a group       D  channels that are summed    }  multiples of 128
    G  groups                   N  channels of the result      }
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ola_jax.kernels.local_global_pool import LANES
from ola_jax.typing import Array, Float

Ref = Any  # an array in memory, as Pallas passes it to a kernel
USABLE = 0.85  # of the VMEM, by our estimate of what the compiler adds


@dataclasses.dataclass(frozen=True)
class Tile:
    """Sizes of what a kernel works on at a time."""

    groups: int
    channels: int  # of the result: a multiple of LANES that divides N
    depth: int  # channels that are summed at a time: a multiple of LANES that divides D


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes of a product."""

    members: int
    groups: int
    depth: int  # D
    channels: int  # N
    itemsize: int  # bytes of an element
    matrices: int  # 2 with one for the mean
    tiles: int  # arrays with members that the epilogue reads or writes
    rows: int  # arrays without


def product(
    x: Float[Array, "n G D"],
    kernel: Float[Array, "rows columns"],
    *,
    epilogue: Callable[..., Sequence[Array]],
    outputs: Sequence[bool],
    name: str,
    mean_kernel: Float[Array, "rows columns"] | None = None,
    transposed: bool = False,
    by_member: Sequence[Float[Array, "n G N"]] = (),
    by_channel: Sequence[Float[Array, "N"]] = (),
    interpret: bool = False,
    tile: Tile | None = None,
) -> tuple[Float[Array, "..."], ...]:
    """The results of `epilogue`, of x @ kernel plus, with `mean_kernel`, the members' mean @ mean_kernel.

    The epilogue gets that sum [n g h], tiles of `by_member` [n g h] and of `by_channel` [1 h], all float32.
    It returns an array for each of `outputs`, [n g h] where that is True and [g h] where not; they are
    written in x's dtype. With `transposed`, `kernel` is [N D].
    """
    members, groups, depth = x.shape
    channels = kernel.shape[0 if transposed else 1]
    arrays = [len(by_member) + sum(outputs), len(outputs) - sum(outputs)]
    kernels = [kernel] if mean_kernel is None else [kernel, mean_kernel]
    problem = Problem(members, groups, depth, channels, x.dtype.itemsize, len(kernels), *arrays)
    vmem = target_vmem_bytes()
    tile = tile or choose_tile(problem, vmem)
    grid = (pl.cdiv(groups, tile.groups), channels // tile.channels, depth // tile.depth)

    of_members = pl.BlockSpec((members, tile.groups, tile.channels), lambda i, j, k: (0, i, j))
    of_groups = pl.BlockSpec((tile.groups, tile.channels), lambda i, j, k: (i, j))
    of_channels = pl.BlockSpec((1, tile.channels), lambda i, j, k: (0, j))
    if transposed:
        of_kernel = pl.BlockSpec((tile.channels, tile.depth), lambda i, j, k: (j, k))
    else:
        of_kernel = pl.BlockSpec((tile.depth, tile.channels), lambda i, j, k: (k, j))
    shape = lambda by_member: (members, groups, channels) if by_member else (groups, channels)
    sums = [pltpu.VMEM((members * tile.groups, tile.channels), jnp.float32)]
    sums += [pltpu.VMEM((tile.groups, tile.channels), jnp.float32)] * (len(kernels) - 1)

    def run(*refs: Ref) -> None:
        counts = (1, len(kernels), len(by_member) + len(by_channel), len(outputs), len(sums))
        starts = [0, *itertools.accumulate(counts)]
        (rows,), matrices, inputs, writes, totals = (
            refs[start:stop] for start, stop in itertools.pairwise(starts)
        )
        _add_products(rows, matrices, totals, transposed)

        @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
        def _() -> None:
            total = totals[0][...].reshape(members, tile.groups, tile.channels)
            if len(totals) == 2:
                total = total + totals[1][...]
            found = epilogue(total, *(ref[...].astype(jnp.float32) for ref in inputs))
            for ref, value in zip(writes, found, strict=False):
                ref[...] = value.astype(ref.dtype)

    results = pl.pallas_call(
        run,
        grid=grid,
        in_specs=[
            pl.BlockSpec((members, tile.groups, tile.depth), lambda i, j, k: (0, i, k)),
            *[of_kernel] * len(kernels),
            *[of_members] * len(by_member),
            *[of_channels] * len(by_channel),
        ],
        out_specs=[of_members if by_member else of_groups for by_member in outputs],
        out_shape=[jax.ShapeDtypeStruct(shape(by_member), x.dtype) for by_member in outputs],
        scratch_shapes=sums,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=vmem
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * groups * depth * channels * (members + len(kernels) - 1),
            transcendentals=members * groups * channels,
            bytes_accessed=moved_bytes(problem, tile),
        ),
        interpret=interpret,
        name=name,
    )(x, *kernels, *by_member, *(vector[None] for vector in by_channel))
    return tuple(results)


def _add_products(x: Ref, kernels: Sequence[Ref], totals: Sequence[Ref], transposed: bool) -> None:
    """Adds the products of these channels to the totals: of the members, and of their mean."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        for total in totals:
            total[...] = jnp.zeros_like(total)

    rows, contract = x[...], (1, 1 if transposed else 0)
    totals[0][...] += dot(rows.reshape(-1, rows.shape[-1]), kernels[0][...], contract)
    if len(kernels) == 2:
        mean = rows.astype(jnp.float32).mean(axis=0).astype(rows.dtype)
        totals[1][...] += dot(mean, kernels[1][...], contract)


def dot(a: Array, b: Array, contract: tuple[int, int]) -> Float[Array, "..."]:
    """The product of two matrices along one axis of each, summed in float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, exact, preferred_element_type=jnp.float32)


def choose_tile(problem: Problem, vmem_bytes: int) -> Tile:
    """The tile that moves the fewest bytes, of those that by our estimate fit into VMEM.

    Of several, the largest: it has the fewest steps.
    """
    packed = 32 // problem.itemsize  # rows of one register tile
    most = -(-problem.groups // packed) * packed
    rows = sorted({min(size, most) for size in (16, 32, 64, 128, 256, 512) if size >= packed} | {packed})
    tiles = [
        Tile(groups, channels, depth)
        for groups in rows
        for channels in _divisors(problem.channels)
        for depth in _divisors(problem.depth)
    ]
    fitting = [tile for tile in tiles if _vmem_bytes(problem, tile) <= USABLE * vmem_bytes]
    size = lambda tile: tile.groups * tile.channels * tile.depth
    least = Tile(packed, LANES, LANES)
    return min(fitting, key=lambda tile: (moved_bytes(problem, tile), -size(tile)), default=least)


def moved_bytes(problem: Problem, tile: Tile) -> int:
    """Bytes that the kernel reads and writes. A block that is the same in the next step is read once."""
    p = problem
    whole = tile.depth == p.depth
    rows = p.members * p.groups * p.depth * (1 if whole else p.channels // tile.channels)
    kernels = p.matrices * p.depth * p.channels
    if not (whole and tile.channels == p.channels):
        kernels *= -(-p.groups // tile.groups)
    return p.itemsize * (rows + kernels + (p.tiles * p.members + p.rows) * p.groups * p.channels)


def _vmem_bytes(problem: Problem, tile: Tile) -> int:
    """Inputs and outputs twice, as copies overlap with products; sums, and the epilogue's temporaries."""
    p = problem
    kernels = p.matrices * tile.depth * tile.channels
    inputs = p.members * tile.groups * tile.depth + kernels
    result = p.members * tile.groups * tile.channels
    rows = tile.groups * tile.channels
    copies = 2 * p.itemsize * (inputs + p.tiles * result + p.rows * rows)
    return copies + 4 * (result + rows) + 3 * 4 * result


def _divisors(channels: int) -> list[int]:
    blocks = channels // LANES
    return [LANES * n for n in range(1, blocks + 1) if blocks % n == 0]


def target_vmem_bytes() -> int:
    """VMEM of the TPU compiled for; the least of all TPUs if that is unknown."""
    try:
        return pltpu.get_tpu_info().vmem_capacity_bytes
    except (ValueError, RuntimeError):  # no TPU here, and none named to the compiler
        return 16 * 2**20  # of v4
