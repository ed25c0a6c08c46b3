"""The hot path side by side, but for pooling: our form of each part and the obvious alternatives.

    python benchmarks/hot_path.py                              # on the device that is there
    python benchmarks/hot_path.py --only attention             # of an H100: cuDNN too
    python benchmarks/hot_path.py --topology v5p:2x2x1         # the TPU compiler's account, without a TPU

Before anything is timed, all forms of a part must agree; forms then take turns within each round, and
times are medians over the rounds. Sizes are Ola-7b's on accelerators and small on a CPU.
"""

import dataclasses
import functools
import os
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

from ola_jax.batch import IGNORE
from ola_jax.kernels import attention_xla
from ola_jax.kernels.attention import packed_attention
from ola_jax.kernels.attention_inputs import PackedInputs
from ola_jax.kernels.biased_attention import biased_attention
from ola_jax.models.oryx_vit import resample_position_embedding
from ola_jax.models.spectrogram import kaldi_fbank, log_mel
from ola_jax.training.loss import cross_entropy

PARTS = ("attention", "beats", "cross_entropy", "resampling", "log_mel", "fbank")


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured."""

    only: Literal["attention", "beats", "cross_entropy", "resampling", "log_mel", "fbank"] | None = None
    rounds: int = 5
    full: bool = False  # Ola-7b's sizes on a CPU as well
    tiny: bool = False  # sizes that only show that it runs
    topology: str | None = None  # of a TPU to compile for, such as v5p:2x2x1; nothing is run


@dataclasses.dataclass(frozen=True)
class Case:
    """One part: forms of the same function, of the same inputs."""

    name: str
    forms: dict[str, Callable]  # the first is ours
    inputs: tuple[Any, ...]
    gradients: tuple[int, ...] = ()  # of which inputs; none: forward only
    tolerance: float = 1e-4  # of the largest value


def attention_cases(size: str, dtype: str, platform: str) -> list[Case]:
    """The decoder's packed causal rows and the ViT's windows."""
    length, window, heads, kv, vit_heads = {
        "full": (16_384, 9216, 28, 4, 16),
        "cpu": (4096, 4608, 7, 1, 4),
        "tiny": (1200, 1200, 2, 1, 1),
    }[size]
    frame = window * 784 // 9216
    images = np.minimum(1 + np.arange(window) // frame, 99)
    samples = 1 + np.searchsorted(np.cumsum([0.4, 0.3, 0.2]), np.arange(length) / length, "right")
    cases = []
    for name, segments, h, k, width, causal in (
        ("decoder, 4 samples", samples, heads, kv, 128, True),
        ("decoder, 1 sample", np.ones(length), heads, kv, 128, True),
        ("ViT, frames", images, vit_heads, vit_heads, 72, False),
        ("ViT, 1 image", np.ones(window), vit_heads, vit_heads, 72, False),
    ):
        s = segments.astype(np.int32)[None]
        q, key, value = (draw((1, s.shape[1], n, width), dtype, i) for i, n in enumerate((h, k, k)))
        packed = functools.partial(by, causal)
        forms = {"splash": packed("splash")} if platform == "tpu" else {}
        forms["xla, blocks"] = packed("xla")
        forms["all scores"] = lambda q, k, v, s, causal=causal: attention_xla.attend_unblocked(
            PackedInputs(q, k, v, s, s, causal)
        )
        forms["jax.nn"] = lambda q, k, v, s, causal=causal: jax.nn.dot_product_attention(
            q, k, v, mask=(s[:, :, None] == s[:, None])[:, None], is_causal=causal
        )
        if platform == "gpu":
            forms["cudnn"] = packed("cudnn")
        cases.append(Case(f"attention: {name}", forms, (q, key, value, s), (0, 1, 2)))
    if size == "cpu":  # the same frames, once in windows of their own
        q, k, v, s = cases[2].inputs
        count = window // frame
        cut = lambda x: x[:, : count * frame].reshape(count, frame, *x.shape[2:])
        small = Case(
            "attention: ViT, frames in windows of one", cases[2].forms, tuple(map(cut, (q, k, v, s)))
        )
        cases.append(dataclasses.replace(small, gradients=(0, 1, 2)))
    return cases


def by(causal: bool, implementation: str) -> Callable:
    """packed_attention as a function of arrays alone."""
    return lambda q, k, v, s: packed_attention(
        PackedInputs(q, k, v, s, s, causal), implementation=implementation
    )


def beats_cases(size: str, *_: str) -> list[Case]:
    """One layer's attention, float32."""
    chunks, frames, heads = {"full": (26, 1496, 12), "cpu": (1, 1496, 12), "tiny": (1, 140, 2)}[size]
    q, k, v = (draw((chunks, frames, heads, 64), "float32", i) for i in range(3))
    gate, bias = draw((chunks, frames, heads), "float32", 3), draw((heads, frames, frames), "float32", 4)

    def whole(q: Any, k: Any, v: Any, gate: Any, bias: Any) -> Any:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q / 8, k) + jnp.moveaxis(gate, 2, 1)[..., None] * bias
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)

    def blocks(q: Any, k: Any, v: Any, gate: Any, bias: Any) -> Any:
        return biased_attention(q, k, v, gate=gate, bias=bias)

    return [
        Case(
            "BEATs attention",
            {"blocks": blocks, "all scores": whole},
            (q, k, v, gate, bias),
            (0, 1, 2, 3, 4),
        )
    ]


def cross_entropy_cases(size: str, dtype: str, *_: str) -> list[Case]:
    """The output matrix and the loss."""
    length, width, vocabulary = {
        "full": (16_384, 3584, 152_064),
        "cpu": (2048, 512, 16_000),
        "tiny": (64, 16, 100),
    }[size]
    hidden, kernel = draw((1, length, width), dtype, 0), draw((width, vocabulary), dtype, 1, width**-0.5)
    targets = np.random.default_rng(2).integers(0, vocabulary, (1, length)).astype(np.int32)
    targets[:, ::3] = IGNORE

    def twice(hidden: Any, kernel: Any, targets: Any) -> Any:
        """In chunks whose logits the backward pass computes again."""

        def body(total: Any, x: Any) -> Any:
            return total + all_logits(x[0][None], kernel, x[1][None]), None

        chunk = min(1024, length)
        x = hidden.reshape(-1, chunk, width), targets.reshape(-1, chunk)
        return jax.lax.scan(jax.checkpoint(body), jnp.float32(0), x)[0]

    def all_logits(hidden: Any, kernel: Any, targets: Any) -> Any:
        log_p = jax.nn.log_softmax((hidden @ kernel).astype(jnp.float32))
        picked = jnp.take_along_axis(log_p, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        return -jnp.where(targets != IGNORE, picked, 0).sum()

    forms = {"gradients at once": lambda *x: cross_entropy(*x)[0], "logits twice": twice}
    if size != "full":
        forms["all logits"] = all_logits
    return [Case("cross-entropy", forms, (hidden, kernel, targets), (0, 1))]


def resampling_cases(size: str, *_: str) -> list[Case]:
    """Position embeddings of one window with one image."""
    side, width = {"full": (96, 1152), "cpu": (96, 1152), "tiny": (6, 16)}[size]
    grid = 128 if size != "tiny" else 8
    rows, columns = np.divmod(np.arange(side * side), side)
    place = np.stack([rows, columns, np.full_like(rows, side), np.full_like(rows, side)], -1).astype(np.int32)

    def products(table: Any, place: Any) -> Any:
        """Four corners as one sparse row of weights, times the table: what a TPU's products would do."""
        at = jnp.maximum((place[:, :2] + 0.5) * (grid / place[:, 2:]) - 0.5, 0.0)
        cells = jnp.arange(grid)
        weights = jnp.maximum(1 - jnp.abs(jnp.minimum(at, grid - 1.0)[..., None] - cells), 0)
        both = (weights[:, 0, :, None] * weights[:, 1, None]).reshape(len(place), -1)
        return jnp.matmul(both, table, precision="highest")

    forms = {"gather": resample_position_embedding, "products": products}
    return [Case("resampling", forms, (draw((grid**2, width), "float32", 0), place), (0,))]


def sound_cases(function: Callable, name: str, size: str) -> list[Case]:
    """Features of 30 s chunks."""
    chunks, samples = {"full": (26, 480_000), "cpu": (2, 480_000), "tiny": (1, 4000)}[size]
    sound = draw((chunks, samples), "float32", 0, 0.1)
    forms = {how: functools.partial(function, transform=how) for how in ("fft", "products")}
    return [Case(name, forms, (sound,))]


def draw(shape: tuple[int, ...], dtype: str, seed: int, scale: float = 1.0) -> Any:
    """Normal values; they stay on the host until they are used."""
    return (np.random.default_rng(seed).standard_normal(shape, np.float32) * scale).astype(jnp.dtype(dtype))


def jobs(case: Case) -> dict[tuple[str, str], Callable]:
    """Each form in each direction."""
    found = {}
    for name, form in case.forms.items():
        found[name, "forward"] = form
        if case.gradients:
            total = lambda *x, form=form: (form(*x).astype(jnp.float32) * 0.5).sum()
            found[name, "forward + backward"] = jax.value_and_grad(total, case.gradients)
    return found


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """One row for each form and direction. Raises ValueError where two forms disagree."""
    inputs = jax.device_put(case.inputs)
    compiled, results, rows = {}, {}, []
    for key, job in jobs(case).items():
        try:
            compiled[key] = jax.jit(job).lower(*inputs).compile()
            results[key] = jax.tree.map(np.asarray, jax.tree.leaves(compiled[key](*inputs)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            compiled.pop(key, None)
            rows.append({"part": case.name, "form": key[0], "direction": key[1], "does not fit": True})
    ours = next(iter(case.forms))
    for (name, direction), values in results.items():
        for value, expected in zip(values, results[ours, direction], strict=True):
            value, expected = np.asarray(value, np.float32), np.asarray(expected, np.float32)
            tolerance = case.tolerance if case.inputs[0].dtype == np.float32 else 2**-5
            error = np.abs(value - expected).max() / np.abs(expected).max()
            if not error < tolerance:
                raise ValueError(f"{case.name}, {direction}: {name} is {error:.1e} off {ours}")
    del results
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in compiled}
    for _ in range(rounds):
        for key, job in compiled.items():
            begin = time.perf_counter()
            jax.block_until_ready(job(*inputs))
            seconds[key].append(time.perf_counter() - begin)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    rows += [
        {
            "part": case.name,
            "form": name,
            "direction": direction,
            "milliseconds": value * 1e3,
            "ours is faster by": value / median[ours, direction],
            "temporary MB": compiled[name, direction].memory_analysis().temp_size_in_bytes / 2**20,
        }
        for (name, direction), value in median.items()
    ]
    return rows


def estimate(case: Case, topology: str) -> list[dict[str, Any]]:
    """What the TPU's compiler says of each form; it counts the body of a loop once."""
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = Mesh(np.array(devices[:1]), ("device",), axis_types=(AxisType.Auto,))
    here = NamedSharding(mesh, PartitionSpec())
    inputs = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for x in case.inputs]
    rows = []
    for (name, direction), job in jobs(case).items():
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            try:
                compiled = jax.jit(job).lower(*inputs).compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                rows.append({"part": case.name, "form": name, "direction": direction, "does not fit": True})
                continue
        cost = compiled.cost_analysis()
        rows.append(
            {
                "part": case.name,
                "form": name,
                "direction": direction,
                "GFLOP": cost["flops"] / 1e9,
                "GB accessed": cost["bytes accessed"] / 1e9,
                "temporary MB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
            }
        )
    return rows


def main() -> None:
    """Measures (or estimates) and prints a table for each part."""
    args = tyro.cli(Args, description=__doc__)
    platform = "tpu" if args.topology else jax.default_backend()
    size = "tiny" if args.tiny else "cpu" if platform == "cpu" and not args.full else "full"
    dtype = "float32" if platform == "cpu" else "bfloat16"
    makers = {
        "attention": attention_cases,
        "beats": beats_cases,
        "cross_entropy": cross_entropy_cases,
        "resampling": resampling_cases,
        "log_mel": lambda size, *_: sound_cases(log_mel, "log-mel", size),
        "fbank": lambda size, *_: sound_cases(kaldi_fbank, "fbank", size),
    }
    device = args.topology or f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    for part in [args.only] if args.only else PARTS:
        for case in makers[part](size, dtype, platform):
            rows = estimate(case, args.topology) if args.topology else measure(case, args.rounds)
            columns = list(dict.fromkeys(name for row in rows for name in row))
            table = rich.table.Table(*columns, title=f"{device}, {case.inputs[0].dtype}")
            for row in rows:
                values = [row.get(column, "") for column in columns]
                table.add_row(*[f"{v:.3g}" if isinstance(v, float) else str(v) for v in values])
            rich.console.Console(width=130).print(table)


if __name__ == "__main__":
    main()
