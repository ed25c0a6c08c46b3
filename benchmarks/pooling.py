"""Local-global attention pooling side by side: our kernel, our XLA form, the formula as written, PyTorch.

    python benchmarks/pooling.py                                  # on the device that is there
    python benchmarks/pooling.py --topology v5p:2x2x1             # the TPU compiler's account, without a TPU
    python benchmarks/pooling.py --groups 4096 16384 --json FILE

All forms take turns within each round, so that a change in the machine's load meets them all;
times are medians over the rounds. The ceilings are a large matrix product and a copy, measured in the
same rounds. TFLOP/s count what is needed, 18 D^2 FLOPs for a group of four forward and twice that backward,
whatever a form really does.
"""

import dataclasses
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

from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool

FLOPS = 2 * (4 + 1 + 4)  # of a group forward, in D^2: products of its rows with a D x D matrix


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured; the defaults fit the device."""

    groups: tuple[int, ...] = ()  # 2x2 blocks at a time; default: 64 4096 16384, on a CPU 64 256
    width: int | None = None  # channels; default: 3584 as in Ola-7b, on a CPU 1152
    dtype: Literal["bfloat16", "float32"] | None = None  # default: bfloat16, on a CPU float32
    rounds: int = 10
    torch: bool = True  # PyTorch too, where it is installed
    topology: str | None = None  # of a TPU to compile for, such as v5p:2x2x1; nothing is run
    json: pathlib.Path | None = None  # where to write the figures as well


def as_written(x: jax.Array, params: PoolParams) -> jax.Array:
    """The formula of the paper, word for word: pairs [x, g], two products, softmax, sum."""
    mean = jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)
    hidden = jax.nn.gelu(
        jnp.concatenate([x, mean], axis=-1) @ params.kernel1 + params.bias1, approximate=False
    )
    weights = jax.nn.softmax((hidden @ params.kernel2).astype(jnp.float32), axis=1)
    return (x * weights.astype(x.dtype)).sum(axis=1)


def jax_forms(kernel_runs: bool) -> dict[str, Callable]:
    """Name and function of each form in JAX."""
    forms = {"xla": lambda x, p: local_global_pool(x, p, "xla"), "as written": as_written}
    if kernel_runs:
        forms = {"pallas": lambda x, p: local_global_pool(x, p, "pallas")} | forms
    return forms


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
    jobs, memory = {}, {}
    for name, form in jax_forms(jax.default_backend() == "tpu").items():
        forward = jax.jit(form).lower(x, params).compile()
        both = jax.jit(with_gradient(form)).lower(x, params, grad).compile()
        jobs[name, "forward"] = lambda f=forward: jax.block_until_ready(f(x, params))
        jobs[name, "forward + backward"] = lambda f=both: jax.block_until_ready(f(x, params, grad))
        for direction, compiled in (("forward", forward), ("forward + backward", both)):
            memory[name, direction] = compiled.memory_analysis().temp_size_in_bytes
    if args.torch:
        jobs |= torch_jobs([np.array(a, np.float32) for a in (x, k1, b1, k2, grad)], dtype)
    side = 4096 if jax.default_backend() != "cpu" else 1024
    square = draw((side, side), side**-0.5)
    product = jax.jit(lambda a: a @ a)
    big = jnp.zeros((64 if jax.default_backend() == "cpu" else 1024, 2**20), jnp.uint8)
    copy = jax.jit(lambda a: a + jnp.uint8(1))
    jobs["ceiling", "product"] = lambda: product(square).block_until_ready()
    jobs["ceiling", "copy"] = lambda: copy(big).block_until_ready()

    seconds = {key: [] for key in jobs}
    for job in jobs.values():
        job()
    for _ in range(args.rounds):
        for key, job in jobs.items():
            begin = time.perf_counter()
            job()
            seconds[key].append(time.perf_counter() - begin)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    ceiling = 2 * side**3 / median.pop(("ceiling", "product"))
    bandwidth = 2 * big.size / median.pop(("ceiling", "copy"))
    rows = []
    for (name, direction), value in median.items():
        flops = FLOPS * groups * width**2 * (1 if direction == "forward" else 3)
        moved = (5 * groups * width + 3 * width**2) * x.dtype.itemsize * (1 if direction == "forward" else 2)
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
                "temporary MB": memory[name, direction] / 2**20 if (name, direction) in memory else None,
            }
        )
    return rows


def torch_jobs(arrays: list[np.ndarray], dtype: str) -> dict[tuple[str, str], Callable]:
    """The original's module in PyTorch, eager and compiled; nothing where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return {}
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    x, k1, b1, k2, grad = (
        torch.from_numpy(a).to(device, getattr(torch, dtype)).requires_grad_(True) for a in arrays
    )

    def pool(x: Any) -> Any:
        pairs = torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], dim=-1)
        scores = torch.nn.functional.gelu(pairs @ k1 + b1) @ k2
        return (x * torch.softmax(scores, dim=1)).sum(1)

    def forward(pool: Callable) -> None:
        with torch.no_grad():
            pool(x)
        finish()

    def both(pool: Callable) -> None:
        torch.autograd.grad(pool(x), (x, k1, b1, k2), grad)
        finish()

    finish = torch.cuda.synchronize if device == "cuda" else lambda: None
    jobs = {}
    for name, form in (("torch eager", pool), ("torch compile", torch.compile(pool))):
        jobs[name, "forward"] = lambda form=form: forward(form)
        jobs[name, "forward + backward"] = lambda form=form: both(form)
    return jobs


def estimate(args: Args, groups: int, width: int, dtype: str) -> list[dict[str, Any]]:
    """What the TPU's compiler says of each form: nothing is run."""
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    topology = topologies.get_topology_desc(platform="tpu", topology_name=args.topology)
    mesh = Mesh(np.array(topology.devices[:1]), ("device",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec())
    x, k1, b1, k2, grad = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=here) for shape in shapes(groups, width)
    )
    params, rows = PoolParams(k1, b1, k2), []
    for name, form in jax_forms(kernel_runs=True).items():
        for direction, function, inputs in (
            ("forward", form, (x, params)),
            ("forward + backward", with_gradient(form), (x, params, grad)),
        ):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                begin = time.perf_counter()
                compiled = jax.jit(function).lower(*inputs).compile()
            cost = compiled.cost_analysis()
            rows.append(
                {
                    "form": name,
                    "direction": direction,
                    "groups": groups,
                    "GFLOP": cost["flops"] / 1e9,
                    "GB accessed": cost["bytes accessed"] / 1e9,
                    "temporary MB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
                    "compiled in s": time.perf_counter() - begin,
                }
            )
    return rows


def main() -> None:
    """Measures (or estimates) and prints a table."""
    args = tyro.cli(Args, description=__doc__)
    cpu = jax.default_backend() == "cpu" and not args.topology
    width = args.width or (1152 if cpu else 3584)
    dtype = args.dtype or ("float32" if cpu else "bfloat16")
    work = estimate if args.topology else measure
    rows = [
        row
        for groups in args.groups or ((64, 256) if cpu else (64, 4096, 16384))
        for row in work(args, groups, width, dtype)
    ]
    device = args.topology or f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    table = rich.table.Table(title=f"pooling, D = {width}, {dtype}, {device}")
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("form", "direction") else "right")
    for row in rows:
        table.add_row(
            *[f"{v:.3g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()]
        )
    rich.console.Console(width=150).print(table)
    if args.json:
        host = {"device": device, "machine": platform.machine(), "jax": jax.__version__}
        args.json.write_text(
            json.dumps({**host, "width": width, "dtype": dtype, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
