"""A matrix product on Hopper GPUs whose epilogue works on groups of columns (Mosaic GPU).

A column is a member of a group. The columns of BLOCK groups are adjacent, member by member: columns =
(block, member, group within it). A tile is CHANNELS rows of a block, computed by one wgmma instruction
(m64n256k16 for four members: the widest, which needs the least shared memory bandwidth). Each thread then
holds the same groups of all members, at the same positions of n slices of its accumulator: reductions over
members are elementwise, without shuffles or shared memory.

A persistent block of threads on each multiprocessor loops over tiles: one warpgroup fetches
the steps of the product, ahead of two that multiply, each for rows of its own. While these run
their epilogue, the steps of the next tile arrive.

    n  members of a group, at most 4        R  columns, n * BLOCK * blocks        h, k  channels
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from ola_jax.typing import Array, Float

BLOCK = 64  # groups of a tile
CHANNELS = 64  # of a tile: rows of a wgmma instruction
WARPGROUPS = 2  # that multiply
ROWS = CHANNELS * WARPGROUPS  # computed at the same time
DEPTH = 64  # of a step of the product: 128 bytes of bfloat16, the widest swizzle
MAX_MEMBERS = 4  # 256 columns, the maximum of a wgmma instruction
SWIZZLED = (plgpu.TilingTransform((8, DEPTH)), plgpu.SwizzleTransform(128))
SHARED_BYTES = 227 * 1024  # of a block of threads
FETCHING_REGISTERS = 40  # of a thread; the other threads get the rest
INTERPRETED_PROCESSORS = 1

Ref = Any  # an array in memory, as Pallas passes it to a kernel
Slice = pl.Slice | slice
Read = Callable[..., Array]  # (input, member) -> the tile, in float32
Write = Callable[[int, int, Array], None]  # (output, member, tile)
Epilogue = Callable[[Sequence[Array], Read, Write], None]  # takes the product: a tile for each member


class Buffers(NamedTuple):
    """Numbers of buffers in shared memory: for steps of the product, and for tiles being moved in or out."""

    stages: int
    arriving: int  # tiles of a warpgroup
    leaving: int  # tiles of a warpgroup


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Sizes of a product, and the inputs and outputs of its epilogue."""

    rows: int
    depth: int
    blocks: int
    members: int
    by_group: int  # inputs of the epilogue with a column for each group
    reads: tuple[tuple[int, int], ...]  # (input, member) in the order in which the epilogue reads
    outputs: tuple[bool, ...]
    buffers: Buffers
    epilogue: Epilogue

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Strips of rows, blocks, rows of a strip: tiles computed at the same time form about a square.

        So its rows and columns stay in the L2 cache.
        """
        rows = self.rows // ROWS
        height = max(number for number in range(1, 17) if rows % number == 0)
        return rows // height, self.blocks, height

    def columns(self, block: Array, member: int, per_member: bool) -> Slice:
        """Columns of a tile, in an array with a column for each member or for each group."""
        return pl.ds((block * (self.members if per_member else 1) + member) * BLOCK, BLOCK)


def product(
    a: Float[Array, "h k"],
    b: Float[Array, "k R"],
    *,
    by_group: tuple[Array, ...] = (),
    by_member: tuple[Array, ...] = (),
    outputs: tuple[bool, ...],
    epilogue: Epilogue,
    members: int,
    name: str,
    interpret: bool,
) -> tuple[Array, ...]:
    """Outputs of `epilogue` for the product of a and b: it reads tiles of inputs and writes tiles of outputs.

    All arrays are bfloat16; sums and the tiles of the epilogue are float32. h and k are multiples of ROWS.
    Inputs and outputs have h rows, and a column for each group or each member; `outputs` is True for those
    with one for each member, and writes to further outputs are dropped. Inputs are numbered, those by
    group first, and must be read in this order, those by member for one member after the other.
    """
    reads = [(i, 0) for i in range(len(by_group))]
    reads += [(len(by_group) + i, m) for m in range(members) for i in range(len(by_member))]
    layout = _Layout(
        rows=a.shape[0],
        depth=a.shape[1],
        blocks=b.shape[1] // (members * BLOCK),
        members=members,
        by_group=len(by_group),
        reads=tuple(reads),
        outputs=outputs,
        buffers=choose_buffers(members, len(reads)),
        epilogue=epilogue,
    )

    def kernel(a: Ref, b: Ref, *others: Ref) -> None:
        inputs, results = others[: -len(outputs)], others[-len(outputs) :]
        _run(layout, a, b, inputs, results)

    kernel.__name__ = name
    shape = lambda n: jax.ShapeDtypeStruct((layout.rows, layout.blocks * n * BLOCK), b.dtype)
    processors = INTERPRETED_PROCESSORS if interpret else _processors()
    return plgpu.kernel(
        kernel,
        out_type=tuple(shape(members if per_member else 1) for per_member in outputs),
        grid=(min(processors, math.prod(layout.tiles)),),
        grid_names=("processor",),
        num_threads=WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=_interpreter() if interpret else None,
    )(a, b, *by_group, *by_member)


def choose_buffers(members: int, reads: int) -> Buffers:
    """Buffers for up to three arriving tiles and two leaving ones; the rest is for up to four steps."""
    fitting = (Buffers(stages, min(reads, 3), 2) for stages in (4, 3, 2))
    return next(b for b in fitting if shared_bytes(members, b) <= SHARED_BYTES)


def shared_bytes(members: int, buffers: Buffers) -> int:
    """Bytes of shared memory that a block of threads uses."""
    tiles = WARPGROUPS * (buffers.arriving + buffers.leaving) * CHANNELS * BLOCK
    steps = buffers.stages * (ROWS + members * BLOCK) * DEPTH
    return 2 * (tiles + steps) + 3 * 1024  # for barriers, and Mosaic's own use


def _run(layout: _Layout, a: Ref, b: Ref, inputs: tuple[Ref, ...], results: tuple[Ref, ...]) -> None:
    """Runs a block of threads from its first tile to its last."""

    def scope(stages: Any, arriving: Ref, leaving: Ref, arrived: Ref) -> None:
        warpgroup = jax.lax.axis_index("warpgroup")

        @plgpu.nd_loop(layout.tiles, collective_axes="processor")
        def _(loop: plgpu.NDLoopInfo) -> None:
            strip, block, row = loop.index
            first_row = (strip * layout.tiles[2] + row) * ROWS
            rows = pl.ds(first_row + warpgroup * CHANNELS, CHANNELS)
            start, read = _reader(layout, rows, block, inputs, arriving, arrived)
            write = _writer(layout, rows, block, results, leaving)

            def multiply(run: Callable) -> None:
                start()

                def accumulate(sums: Ref) -> None:
                    run(sums)
                    columns, n = sums[...], layout.members
                    products = [columns[:, m * BLOCK : (m + 1) * BLOCK] for m in range(n)]
                    layout.epilogue(products, read, write)

                shape = CHANNELS, layout.members * BLOCK
                pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))

            def step(_: Any, a: Ref, b: Ref, sums: Ref) -> Ref:
                plgpu.wgmma(sums, a.at[pl.ds(warpgroup * CHANNELS, CHANNELS)], b)
                plgpu.wgmma_wait(0)  # the other warpgroup keeps the tensor cores busy
                return sums

            width = layout.members * BLOCK
            a_rows, b_columns = a.at[pl.ds(first_row, ROWS), :], b.at[:, pl.ds(block * width, width)]
            _pipeline(layout, step, multiply)(a_rows, b_columns, allocations=stages)

        plgpu.wait_smem_to_gmem(0)

    tiles = lambda count: plgpu.SMEM((WARPGROUPS * count, CHANNELS, BLOCK), b.dtype, transforms=SWIZZLED)
    noop = lambda *_: None
    pl.run_scoped(
        scope,
        _pipeline(layout, noop, noop).get_allocations(a, b),
        tiles(layout.buffers.arriving),
        tiles(layout.buffers.leaving),
        plgpu.Barrier(num_barriers=WARPGROUPS * layout.buffers.arriving),
        collective_axes="warpgroup",
    )


def _pipeline(layout: _Layout, step: Callable, context: Callable) -> Any:
    """Pipeline over the steps of the product, fetched by the last warpgroup. JAX does not export its type."""
    return plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(layout.depth // DEPTH,),
        in_specs=[
            plgpu.BlockSpec((ROWS, DEPTH), lambda k: (0, k), transforms=SWIZZLED),
            plgpu.BlockSpec((DEPTH, layout.members * BLOCK), lambda k: (k, 0), transforms=SWIZZLED),
        ],
        max_concurrent_steps=layout.buffers.stages,
        wg_axis="warpgroup",
        num_compute_wgs=WARPGROUPS,
        memory_registers=FETCHING_REGISTERS,
        compute_context=context,
    )


def _reader(
    layout: _Layout, rows: Slice, block: Array, inputs: tuple[Ref, ...], arriving: Ref, arrived: Ref
) -> tuple[Callable[[], None], Read]:
    """Functions start and read of a warpgroup: each buffer is refilled as soon as it has been read."""
    count = layout.buffers.arriving
    buffer = lambda number: jax.lax.axis_index("warpgroup") * count + number % count
    numbers = iter(range(len(layout.reads)))

    def fetch(number: int) -> None:
        i, member = layout.reads[number]
        tile = inputs[i].at[rows, layout.columns(block, member, i >= layout.by_group)]
        plgpu.copy_gmem_to_smem(tile, arriving.at[buffer(number)], arrived.at[buffer(number)])

    def start() -> None:
        plgpu.commit_smem()  # all threads have read the inputs of the last tile
        for number in range(count):
            fetch(number)

    def read(i: int, member: int = 0) -> Array:
        number = next(numbers)
        assert layout.reads[number] == (i, member), (
            f"{i, member} is read where {layout.reads[number]} is fetched"
        )
        plgpu.barrier_wait(arrived.at[buffer(number)])
        tile = arriving[buffer(number)]
        if number + count < len(layout.reads):
            plgpu.commit_smem()  # all threads have read
            fetch(number + count)
        return tile.astype(jnp.float32)

    return start, read


def _writer(layout: _Layout, rows: Slice, block: Array, results: tuple[Ref, ...], leaving: Ref) -> Write:
    """Writes a warpgroup's results; a buffer is waited for only when it is used again."""
    count = layout.buffers.leaving
    numbers = iter(range(len(results) * layout.members))

    def write(i: int, member: int, tile: Array) -> None:
        if i >= len(results):
            return
        buffer = jax.lax.axis_index("warpgroup") * count + next(numbers) % count
        plgpu.wait_smem_to_gmem(count - 1, wait_read_only=True)
        leaving[buffer] = tile.astype(leaving.dtype)
        plgpu.commit_smem()
        columns = layout.columns(block, member, layout.outputs[i])
        plgpu.copy_smem_to_gmem(leaving.at[buffer], results[i].at[rows, columns])

    return write


def _processors() -> int:
    """Number of multiprocessors of the GPU compiled for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.num_cores if device else jax.devices()[0].core_count


def _interpreter() -> Any:
    """Parameters of interpret mode, on any platform. JAX has no public name for them yet."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()
