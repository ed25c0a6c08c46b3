"""A matrix product on Hopper GPUs whose epilogue works on groups of columns (Mosaic GPU).

A column is a member of a group. BLOCK groups stand together, member by member: columns = (block, member,
group within it). A tile is CHANNELS rows of a block, and one wgmma instruction makes it (m64n256k16 for four
members: the widest there is, which asks least of shared memory). Each thread then holds the same groups of
all members, at the same places of n slices of its accumulator: what is taken over members is elementwise,
without a shuffle or a word of shared memory.

A persistent block of threads on each multiprocessor goes from tile to tile: one warpgroup fetches
the steps of the product, ahead of two that multiply, each for rows of its own. While these are in
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
CHANNELS = 64  # of a tile: the rows of a wgmma instruction
WARPGROUPS = 2  # that multiply
ROWS = CHANNELS * WARPGROUPS  # that go through together
DEPTH = 64  # of a step of the product: 128 bytes of bfloat16, the widest swizzle
MAX_MEMBERS = 4  # 256 columns, the most of a wgmma instruction
SWIZZLED = (plgpu.TilingTransform((8, DEPTH)), plgpu.SwizzleTransform(128))
SHARED_BYTES = 227 * 1024  # of a block of threads
FETCHING_REGISTERS = 40  # of a thread; the others get what is left
INTERPRETED_PROCESSORS = 1

Ref = Any  # arrays in memory, as Pallas hands them to a kernel
Read = Callable[..., Array]  # (input, member) -> the tile, in float32
Write = Callable[..., None]  # (output, member, tile)
Epilogue = Callable[[Sequence[Array], Read, Write], None]  # given the product, a tile for each member


class Buffers(NamedTuple):
    """Places in shared memory: for steps of the product, and for tiles on their way in or out."""

    stages: int
    arriving: int  # of a warpgroup
    leaving: int  # of a warpgroup


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is known of a product before it runs."""

    rows: int
    depth: int
    blocks: int
    members: int
    by_group: int  # inputs of the epilogue
    reads: tuple[tuple[int, int], ...]  # (input, member) in the order in which the epilogue reads
    outputs: tuple[bool, ...]
    buffers: Buffers
    epilogue: Epilogue

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Strips of rows, blocks, rows of a strip: what is computed at one time is about square.

        So its rows and columns stay in the L2 cache.
        """
        rows = self.rows // ROWS
        height = max(number for number in range(1, 17) if rows % number == 0)
        return rows // height, self.blocks, height

    def columns(self, block: Array, member: int, of_members: bool) -> pl.Slice:
        """Of a tile, in an array with a column for each member or for each group."""
        return pl.ds((block * (self.members if of_members else 1) + member) * BLOCK, BLOCK)


def product(
    a: Float[Array, "h k"],
    b: Float[Array, "k R"],
    by_group: tuple[Array, ...],
    by_member: tuple[Array, ...],
    outputs: tuple[bool, ...],
    epilogue: Epilogue,
    members: int,
    name: str,
    interpret: bool,
) -> tuple[Array, ...]:
    """The product of a and b, through `epilogue`: it reads tiles of inputs and writes those of the outputs.

    All is bfloat16, sums and what the epilogue sees float32. h and k are multiples of ROWS. Inputs and
    outputs have h rows, and a column for each group or each member; `outputs` tells which have one
    for each member, and what is written beyond them is dropped. Inputs are counted through, those by
    group first, and must be read in that order, those by member for one member after the other.
    """
    reads = [(i, 0) for i in range(len(by_group))]
    reads += [(len(by_group) + i, m) for m in range(members) for i in range(len(by_member))]
    plan = _Plan(
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
        _run(plan, a, b, inputs, results)

    kernel.__name__ = name
    shape = lambda n: jax.ShapeDtypeStruct((plan.rows, plan.blocks * n * BLOCK), b.dtype)
    processors = INTERPRETED_PROCESSORS if interpret else _processors()
    return plgpu.kernel(
        kernel,
        out_type=tuple(shape(members if of_members else 1) for of_members in outputs),
        grid=(min(processors, math.prod(plan.tiles)),),
        grid_names=("processor",),
        num_threads=WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=_interpreter() if interpret else None,
    )(a, b, *by_group, *by_member)


def choose_buffers(members: int, reads: int) -> Buffers:
    """Up to three tiles on their way in, two on their way out; the rest is for up to four steps."""
    fitting = (Buffers(stages, min(reads, 3), 2) for stages in (4, 3, 2))
    return next(b for b in fitting if shared_bytes(members, b) <= SHARED_BYTES)


def shared_bytes(members: int, buffers: Buffers) -> int:
    """Of shared memory."""
    tiles = WARPGROUPS * (buffers.arriving + buffers.leaving) * CHANNELS * BLOCK
    steps = buffers.stages * (ROWS + members * BLOCK) * DEPTH
    return 2 * (tiles + steps) + 3 * 1024  # for barriers, and what Mosaic keeps for itself


def _run(plan: _Plan, a: Ref, b: Ref, inputs: tuple[Ref, ...], results: tuple[Ref, ...]) -> None:
    """A block of threads, from its first tile to its last."""

    def scope(stages: Any, arriving: Ref, leaving: Ref, arrived: Ref) -> None:
        warpgroup = jax.lax.axis_index("warpgroup")

        @plgpu.nd_loop(plan.tiles, collective_axes="processor")
        def _(loop: plgpu.NDLoopInfo) -> None:
            strip, block, row = loop.index
            first_row = (strip * plan.tiles[2] + row) * ROWS
            rows = pl.ds(first_row + warpgroup * CHANNELS, CHANNELS)
            start, read = _reader(plan, rows, block, inputs, arriving, arrived)
            write = _writer(plan, rows, block, results, leaving)

            def multiply(run: Callable) -> None:
                start()

                def accumulate(sums: Ref) -> None:
                    run(sums)
                    whole, n = sums[...], plan.members
                    plan.epilogue([whole[:, m * BLOCK : (m + 1) * BLOCK] for m in range(n)], read, write)

                pl.run_scoped(accumulate, plgpu.ACC((CHANNELS, plan.members * BLOCK), jnp.float32))

            def step(_: Any, a: Ref, b: Ref, sums: Ref) -> Ref:
                plgpu.wgmma(sums, a.at[pl.ds(warpgroup * CHANNELS, CHANNELS)], b)
                plgpu.wgmma_wait(0)  # the other warpgroup keeps the tensor cores busy
                return sums

            width = plan.members * BLOCK
            whole_rows, whole_columns = a.at[pl.ds(first_row, ROWS), :], b.at[:, pl.ds(block * width, width)]
            _pipeline(plan, step, multiply)(whole_rows, whole_columns, allocations=stages)

        plgpu.wait_smem_to_gmem(0)

    places = lambda count: plgpu.SMEM((WARPGROUPS * count, CHANNELS, BLOCK), b.dtype, transforms=SWIZZLED)
    nothing = lambda *_: None
    pl.run_scoped(
        scope,
        _pipeline(plan, nothing, nothing).get_allocations(a, b),
        places(plan.buffers.arriving),
        places(plan.buffers.leaving),
        plgpu.Barrier(num_barriers=WARPGROUPS * plan.buffers.arriving),
        collective_axes="warpgroup",
    )


def _pipeline(plan: _Plan, step: Callable, context: Callable) -> Callable:
    """The steps of the product, fetched by the last warpgroup."""
    return plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(plan.depth // DEPTH,),
        in_specs=[
            plgpu.BlockSpec((ROWS, DEPTH), lambda k: (0, k), transforms=SWIZZLED),
            plgpu.BlockSpec((DEPTH, plan.members * BLOCK), lambda k: (k, 0), transforms=SWIZZLED),
        ],
        max_concurrent_steps=plan.buffers.stages,
        wg_axis="warpgroup",
        num_compute_wgs=WARPGROUPS,
        memory_registers=FETCHING_REGISTERS,
        compute_context=context,
    )


def _reader(
    plan: _Plan, rows: pl.Slice, block: Array, inputs: tuple[Ref, ...], arriving: Ref, arrived: Ref
) -> tuple[Callable[[], None], Read]:
    """(start, read) of a warpgroup's inputs: a place that was read is filled anew at once."""
    count = plan.buffers.arriving
    place = lambda number: jax.lax.axis_index("warpgroup") * count + number % count
    reading = iter(range(len(plan.reads)))

    def fetch(number: int) -> None:
        i, member = plan.reads[number]
        tile = inputs[i].at[rows, plan.columns(block, member, i >= plan.by_group)]
        plgpu.copy_gmem_to_smem(tile, arriving.at[place(number)], arrived.at[place(number)])

    def start() -> None:
        plgpu.commit_smem()  # all threads have read the last tile's
        for number in range(count):
            fetch(number)

    def read(i: int, member: int = 0) -> Array:
        number = next(reading)
        assert plan.reads[number] == (i, member), f"{i, member} is read where {plan.reads[number]} is fetched"
        plgpu.barrier_wait(arrived.at[place(number)])
        tile = arriving[place(number)]
        if number + count < len(plan.reads):
            plgpu.commit_smem()  # all threads have read
            fetch(number + count)
        return tile.astype(jnp.float32)

    return start, read


def _writer(plan: _Plan, rows: pl.Slice, block: Array, results: tuple[Ref, ...], leaving: Ref) -> Write:
    """Of a warpgroup's results: a place is waited for when its turn comes again."""
    count = plan.buffers.leaving
    writing = iter(range(len(results) * plan.members))

    def write(i: int, member: int, tile: Array) -> None:
        if i >= len(results):
            return
        place = jax.lax.axis_index("warpgroup") * count + next(writing) % count
        plgpu.wait_smem_to_gmem(count - 1, wait_read_only=True)
        leaving[place] = tile.astype(leaving.dtype)
        plgpu.commit_smem()
        columns = plan.columns(block, member, plan.outputs[i])
        plgpu.copy_smem_to_gmem(leaving.at[place], results[i].at[rows, columns])

    return write


def _processors() -> int:
    """Multiprocessors of the GPU compiled for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.num_cores if device else jax.devices()[0].core_count


def _interpreter() -> Any:
    """Runs the kernel on any platform. JAX has no public name for it yet."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()
