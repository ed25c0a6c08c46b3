"""Local-global attention pooling side by side: our kernels, our XLA form, the formula as written, PyTorch.

    python benchmarks/pooling.py                                  # on the device that is there
    python benchmarks/pooling.py --groups 4096 16384 --json FILE
    python benchmarks/pooling.py --topology v5p:2x2x1 v6e:2x2     # the TPU compiler's account, without a TPU
    python benchmarks/pooling.py --topology h100                  # the GPU compiler's, without a GPU
    python benchmarks/pooling.py --interpret gpu                  # that the command works, at a tiny size

All forms take turns within each round, so that a change in the machine's load meets them all;
times are medians over the rounds. The ceilings are a large matrix product and a copy, measured in the
same rounds. TFLOP/s count what is needed, 18 D^2 FLOPs for a group of four forward and twice that backward,
GB/s likewise (x, weights and result once, twice with the backward pass), whatever a form really does. Peak
memory is what a form has in use at most: inputs, results and temporaries.

A compiler's account has the milliseconds of the FLOPs and of the bytes at the peaks of the device; the larger
of the two bounds a form's speed. Bytes are those of the compiled program: each instruction reads its operands
once, a kernel moves what it declares.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
import tyro
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ola_jax import hardware
from ola_jax.aot import gpu_topology, hlo
from ola_jax.aot.compile import find_topology
from ola_jax.errors import OlaError
from ola_jax.kernels import local_global_pool_hopper as hopper
from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool

FLOPS = 2 * (4 + 1 + 4)  # of a group forward, in D^2: products of its rows with a D x D matrix
Platform = Literal["tpu", "gpu"]


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured; the defaults fit the device."""

    groups: tuple[int, ...] = ()  # 2x2 blocks at a time; default: 64 4096 16384, on a CPU 64 256
    width: int | None = None  # channels; default: 3584 as in Ola-7b, on a CPU 1152
    dtype: Literal["bfloat16", "float32"] | None = None  # default: bfloat16, on a CPU float32
    rounds: int = 10
    torch: bool = True  # PyTorch too, where it is installed
    topology: tuple[str, ...] = ()  # of TPUs or GPUs to compile for, such as v5p:2x2x1, h100; nothing is run
    forms: tuple[str, ...] = ()  # of JAX's: pallas, xla, "as written"; default: all
    interpret: Platform | None = None  # whose kernels to interpret on a CPU, with 2 groups of 128 channels
    json: pathlib.Path | None = None  # where to write the figures as well


def as_written(x: jax.Array, params: PoolParams) -> jax.Array:
    """The formula of the paper, word for word: pairs [x, g], two products, softmax, sum."""
    mean = jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)
    hidden = jax.nn.gelu(
        jnp.concatenate([x, mean], axis=-1) @ params.kernel1 + params.bias1, approximate=False
    )
    weights = jax.nn.softmax((hidden @ params.kernel2).astype(jnp.float32), axis=1)
    return (x * weights.astype(x.dtype)).sum(axis=1)


def jax_forms(kernels: Platform | None, interpret: bool) -> dict[str, Callable]:
    """Name and function of each form in JAX."""
    forms = {"xla": lambda x, p: local_global_pool(x, p, implementation="xla"), "as written": as_written}
    if kernels:
        forms = {
            "pallas": lambda x, p: local_global_pool(
                x, p, implementation="pallas", interpret=interpret, kernels=kernels
            )
        } | forms
    return forms


def kernels_here(args: Args, dtype: str) -> Platform | None:
    """Whose kernels can run: the device's, or those to be interpreted."""
    backend = jax.default_backend()
    if args.interpret or backend == "tpu":
        return args.interpret or "tpu"
    if backend != "gpu":
        return None
    try:
        hopper.check_supported(4, dtype, interpret=False)
    except OlaError as error:
        print(f"without the kernel: {error}")
        return None
    return "gpu"


def with_gradient(form: Callable) -> Callable:
    """Forward and backward: gradients of x and of the parameters for a given gradient of the output."""

    def run(x: jax.Array, params: PoolParams, grad: jax.Array) -> Any:
        out, pull = jax.vjp(form, x, params)
        return out, pull(grad)

    return run


def shapes(groups: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Of x, kernel1, bias1, kernel2 and the gradient of the output."""
    return (groups, 4, width), (2 * width, width), (width,), (width, width), (groups, width)


def measure(args: Args, groups: int, width: int, dtype: str) -> list[dict[str, Any]]:
    """One row for each form and direction."""
    rng = np.random.default_rng(0)
    draw = lambda shape, scale: jnp.asarray(rng.standard_normal(shape, np.float32) * scale, dtype)
    x, k1, b1, k2, grad = (
        draw(s, c) for s, c in zip(shapes(groups, width), (1, width**-0.5, 0.1, width**-0.5, 1), strict=True)
    )
    params = PoolParams(k1, b1, k2)
    jobs, memory = {}, {}  # a job runs so many times and waits for the last
    for name, form in jax_forms(kernels_here(args, dtype), args.interpret is not None).items():
        for direction, function, inputs in (
            ("forward", form, (x, params)),
            ("forward + backward", with_gradient(form), (x, params, grad)),
        ):
            compiled = jax.jit(function).lower(*inputs).compile()
            jobs[name, direction] = repeated(lambda f=compiled, inputs=inputs: f(*inputs))
            memory[name, direction] = peak_bytes(compiled)
    if args.torch:
        of_torch = torch_jobs([np.array(a, np.float32) for a in (x, k1, b1, k2, grad)], dtype)
        jobs |= {key: job for key, (job, _) in of_torch.items()}
        memory |= {key: peak for key, (_, peak) in of_torch.items() if peak}
    cpu = jax.default_backend() == "cpu"
    side = 1024 if cpu else 8192
    square, big = draw((side, side), side**-0.5), jnp.zeros((64 if cpu else 1024, 2**20), jnp.uint8)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + jnp.uint8(1))
    jobs["ceiling", "product"] = repeated(lambda: product(square))
    jobs["ceiling", "copy"] = repeated(lambda: copy(big))

    if not args.interpret:  # there the time means nothing, and each call takes long
        for job in jobs.values():
            job(1)
    median = times(jobs, args.rounds, shortest=0 if cpu else 0.02)
    ceiling = 2 * side**3 / median.pop(("ceiling", "product"))
    bandwidth = 2 * big.size / median.pop(("ceiling", "copy"))
    rows = []
    for (name, direction), value in median.items():
        flops = FLOPS * groups * width**2 * (1 if direction == "forward" else 3)
        moved = (5 * groups * width + 3 * width**2) * x.dtype.itemsize * (1 if direction == "forward" else 2)
        peak = memory.get((name, direction))
        rows.append(
            {
                "form": name,
                "direction": direction,
                "groups": groups,
                "milliseconds": value * 1e3,
                "against xla": median["xla", direction] / value,
                "TFLOP/s": flops / value / 1e12,
                "of product": flops / value / ceiling,
                "GB/s": moved / value / 1e9,
                "of copy": moved / value / bandwidth,
                "peak MB": peak / 2**20 if peak else None,
            }
        )
    return rows


def repeated(call: Callable[[], Any]) -> Callable[[int], None]:
    """So many calls, one after the other on the device, and then the wait for the last."""

    def job(times: int) -> None:
        for _ in range(times):
            out = call()
        jax.block_until_ready(out)

    return job


def times(
    jobs: dict[tuple[str, str], Callable[[int], None]], rounds: int, shortest: float
) -> dict[tuple[str, str], float]:
    """Median seconds of each job; what takes less than `shortest` is repeated until it does not.

    One call of a small job costs the host more than the device.
    """
    seconds = {key: [] for key in jobs}
    repeats = dict.fromkeys(jobs, 1)
    if shortest:
        for key, job in jobs.items():
            begin = time.perf_counter()
            job(1)
            repeats[key] = 1 + int(shortest / (time.perf_counter() - begin))
    for _ in range(rounds):
        for key, job in jobs.items():
            begin = time.perf_counter()
            job(repeats[key])
            seconds[key].append((time.perf_counter() - begin) / repeats[key])
    return {key: statistics.median(values) for key, values in seconds.items()}


def peak_bytes(compiled: Any) -> int:
    """Of inputs, results and temporaries, by the compiler."""
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def torch_jobs(
    arrays: list[np.ndarray], dtype: str
) -> dict[tuple[str, str], tuple[Callable[[int], None], int]]:
    """The original's module in PyTorch, eager and compiled, with peak memory on a GPU (else 0).

    Nothing where PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        return {}
    gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    x, k1, b1, k2, grad = (
        torch.from_numpy(a).to("cuda" if gpu else "cpu", getattr(torch, dtype)).requires_grad_(True)
        for a in arrays
    )

    def pool(x: Any) -> Any:
        pairs = torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], dim=-1)
        scores = torch.nn.functional.gelu(pairs @ k1 + b1) @ k2
        return (x * torch.softmax(scores, dim=1)).sum(1)

    def forward(pool: Callable) -> None:
        with torch.no_grad():
            pool(x)

    def both(pool: Callable) -> None:
        torch.autograd.grad(pool(x), (x, k1, b1, k2), grad)

    def job(call: Callable, form: Callable) -> Callable[[int], None]:
        def run(times: int) -> None:
            for _ in range(times):
                call(form)
            if gpu:
                torch.cuda.synchronize()

        return run

    jobs = {}
    for name, form in (("torch eager", pool), ("torch compile", torch.compile(pool))):
        for direction, call in (("forward", forward), ("forward + backward", both)):
            run, peak = job(call, form), 0
            if gpu:
                run(1)
                torch.cuda.reset_peak_memory_stats()
                run(1)
                peak = torch.cuda.max_memory_allocated()
            jobs[name, direction] = run, peak
    return jobs


def estimate(args: Args, topology_name: str, groups: int, width: int, dtype: str) -> list[dict[str, Any]]:
    """What the compiler for TPUs or GPUs says of each form: nothing is run."""
    gpu, topology = gpu_topology.is_gpu(topology_name), find_topology(topology_name)
    chip = hardware.find_chip(topology.devices[0].device_kind)
    mesh = Mesh(np.array(topology.devices[:1]), ("device",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec())
    x, k1, b1, k2, grad = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape in shapes(groups, width)
    )
    params, rows = PoolParams(k1, b1, k2), []
    for name, form in jax_forms("gpu" if gpu else "tpu", interpret=False).items():
        if args.forms and name not in args.forms:
            continue
        for direction, function, inputs in (
            ("forward", form, (x, params)),
            ("forward + backward", with_gradient(form), (x, params, grad)),
        ):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                begin = time.perf_counter()
                lowered = jax.jit(function).lower(*inputs)
                compiled = lowered.compile(compiler_options=gpu_topology.OPTIONS if gpu else None)
                seconds = time.perf_counter() - begin
            moved = None if gpu else hlo.count_traffic(hlo.Program(compiled.as_text()))
            cost = compiled.cost_analysis()
            if cost is None:  # the compiler for GPUs counts nothing
                needed = FLOPS * groups * width**2 * (1 if direction == "forward" else 3)
                cost = {"flops": needed} if name == "pallas" else cost_on_cpu(function, inputs)
            rows.append(
                {
                    "device": chip.name,
                    "form": name,
                    "direction": direction,
                    "groups": groups,
                    "GFLOP": cost["flops"] / 1e9,
                    "ms, FLOPs": cost["flops"] / chip.flops * 1e3,
                    "GB moved": moved and moved / 1e9,
                    "ms, memory": moved and moved / chip.memory_bandwidth * 1e3,
                    "temporary MB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
                    "compiled in s": seconds,
                }
            )
    return rows


def compilers(topology_names: tuple[str, ...]) -> list[str]:
    """Version of each compiler, and the date."""
    of_tpus = not all(map(gpu_topology.is_gpu, topology_names))
    packages = ["jax", *["libtpu"] * of_tpus]
    return [*(f"{name} {importlib.metadata.version(name)}" for name in packages), time.strftime("%Y-%m-%d")]


def cost_on_cpu(function: Callable, inputs: Any) -> dict[str, float]:
    """Of the program before any compiler has changed it."""
    here = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    return (
        jax.jit(function)
        .lower(*jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), inputs))
        .cost_analysis()
    )


def main() -> None:
    """Measures (or estimates) and prints a table."""
    args = tyro.cli(Args, description=__doc__)
    cpu = jax.default_backend() == "cpu" and not args.topology
    width = args.width or (128 if args.interpret else 1152 if cpu else 3584)
    dtype = args.dtype or ("bfloat16" if args.interpret == "gpu" or not cpu else "float32")
    groups = args.groups or ((2,) if args.interpret else (64, 256) if cpu else (64, 4096, 16384))
    if args.topology:
        rows = [
            row
            for topology in args.topology
            for number in groups
            for row in estimate(args, topology, number, width, dtype)
        ]
        device = ", ".join([*args.topology, *compilers(args.topology)])
    else:
        rows = [row for number in groups for row in measure(args, number, width, dtype)]
        device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    device += f", kernels for {args.interpret} interpreted" if args.interpret else ""
    table = rich.table.Table(title=f"pooling, D = {width}, {dtype}, {device}")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("device", "form", "direction") else "right")
    for row in rows:
        table.add_row(
            *[f"{v:.3g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()]
        )
    rich.console.Console(width=170).print(table)
    if args.json:
        host = {"device": device, "machine": platform.machine(), "jax": jax.__version__}
        args.json.write_text(
            json.dumps({**host, "width": width, "dtype": dtype, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
