"""Our training step beside PyTorch's, on the same mixed samples and from the same weights.

    python benchmarks/train_step.py                      # sizes that fit the device; a small model on a CPU
    python benchmarks/train_step.py --size 7b --llm-layers 4 --json FILE

Three forms: ours (samples packed into rows of one fixed shape), PyTorch as the original trains (a few
samples at a time, padded to the longest; torch_ola.py), and PyTorch with our rows (several samples in a row,
told apart by a mask). All take the same samples and make one AdamW update from each round's, so that their
losses must agree: they are shown. Each form is a process of its own. On a CPU they take turns, round by
round, so that the machine's other load meets all; on a GPU one follows the other, for each wants the whole
memory.

Tokens are those of the samples, padding not counted; MFU counts what the samples need, whatever a form does.
Samples are in memory, decoded and tokenised; our rows are filled in advance, as the input pipeline does.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import mixed_samples
import rich.console
import rich.table
import tyro

from ola_jax import hardware
from ola_jax.batch import Budget, OlaBatch
from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, Qwen2Config, WhisperConfig
from ola_jax.data.assembly import assemble
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError, run
from ola_jax.models.ola import Ola, init_params
from ola_jax.training import flops, optimizer, state
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step

FORMS = ("ola_jax", "torch padded", "torch packed")
TRAINABLE = ("llm/", "vision_projector/", "speech_projector/")
RATE = 1e-5

TINY = OlaConfig(
    llm=Qwen2Config(512, 64, 2, 4, 2, 128),
    vision=OryxViTConfig(48, 2, 4, 96, position_grid=8),
    whisper=WhisperConfig(80, 100, 32, 2, 4),
    beats=BeatsConfig(32, 32, 2, 4, 64, conv_positions=16, conv_groups=4, predictor_classes=0),
    speech_hidden_size=64,
)
SMALL = OlaConfig(
    llm=Qwen2Config(8192, 512, 6, 8, 2, 1536),
    vision=OryxViTConfig(256, 6, 4, 768, position_grid=32),
    whisper=WhisperConfig(80, 500, 256, 4, 4),
    beats=BeatsConfig(128, 192, 3, 4, 512, predictor_classes=0),
    speech_hidden_size=512,
)
OLA_7B = dataclasses.replace(
    OlaConfig.ola_7b(), beats=BeatsConfig(predictor_classes=0), dtype="bfloat16", remat="full"
)


@dataclasses.dataclass(frozen=True)
class Size:
    """A model, and what it is trained on."""

    config: OlaConfig
    scale: float  # of the samples: mixed_samples.make
    row_tokens: int
    samples: int  # of a round
    one_row_at_a_time: bool = False  # through the models of the packed forms: less memory


SIZES = {
    "tiny": Size(TINY, 0.02, 256, 10),
    "small": Size(SMALL, 0.1, 1024, 40),
    "7b": Size(OLA_7B, 1.0, 16_384, 20, one_row_at_a_time=True),
}


@dataclasses.dataclass(frozen=True)
class Args:
    """What is measured; the defaults fit the device."""

    size: Literal["tiny", "small", "7b"] | None = None  # default: small on a CPU, else 7b
    llm_layers: int | None = None  # of the decoder; fewer where memory asks for it
    samples: int | None = None  # of a round, of all kinds in turn
    rounds: int = 5  # and one before them, in which all is compiled
    forms: tuple[Literal["ola_jax", "torch padded", "torch packed"], ...] = FORMS
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"  # of ours
    torch_rows: int = 2  # padded rows that go through PyTorch's model at a time; the original has 2
    json: pathlib.Path | None = None  # where to write the figures as well
    form: str | None = None  # for this file's own use: be the process of one form


def size_of(args: Args) -> Size:
    size = SIZES[args.size]
    if args.llm_layers:
        llm = dataclasses.replace(size.config.llm, num_layers=args.llm_layers)
        size = dataclasses.replace(size, config=dataclasses.replace(size.config, llm=llm))
    config = dataclasses.replace(size.config, attention=args.attention)
    return dataclasses.replace(size, config=config, samples=args.samples or size.samples)


def batches(size: Size, rounds: int) -> list[list[Sample]]:
    """The samples of each round, the first of which is not timed."""
    return [mixed_samples.make(size.config, size.scale, size.samples, seed) for seed in range(rounds + 1)]


def cheapest_budget(config: OlaConfig, samples: list[list[Sample]], row_tokens: int) -> tuple[Budget, int]:
    """A row's sizes and the number of rows into which each round's samples go, with the fewest FLOPs."""
    most = lambda of: max(sum(map(of, of_round)) for of_round in samples)
    everything = [s for of_round in samples for s in of_round]
    row_tokens = max(row_tokens, max(len(s.tokens) for s in everything))
    largest = max(len(image.patches) for s in everything for image in s.images)
    patches = most(lambda s: sum(len(image.patches) for image in s.images))
    least_rows = math.ceil(most(lambda s: len(s.tokens)) / row_tokens)
    best, best_cost = None, math.inf
    for rows, window in itertools.product(range(least_rows, least_rows + 4), (largest, largest * 3 // 2)):
        window -= window % 4
        windows = math.ceil(patches / window / rows)
        chunks = math.ceil(most(lambda s: len(s.audio)) / rows)
        for more_windows, more_chunks in itertools.product(range(4), range(4)):
            budget = Budget(row_tokens, windows + more_windows, window, chunks + more_chunks)
            cost = sum(flops.count_step(config, budget, rows=rows, trainable=TRAINABLE).values())
            if cost < best_cost and all(fits(of_round, budget, rows) for of_round in samples):
                best, best_cost = (budget, rows), cost
    if best is None:
        raise OlaError(f"no budget of {row_tokens} tokens holds the samples of a round; take fewer samples")
    return best


def fits(samples: list[Sample], budget: Budget, rows: int) -> bool:
    """Whether the samples go into so many rows."""
    try:
        return len(mixed_samples.fill_rows(samples, budget)) <= rows
    except ValueError:  # a sample is larger than a row
        return False


def ours(args: Args) -> Iterator[dict[str, float]]:
    """A round's loss and gradient norm each time that it is asked."""
    size = size_of(args)
    samples = batches(size, args.rounds)
    budget, rows = cheapest_budget(size.config, samples, size.row_tokens)
    ready: list[OlaBatch] = []
    for of_round in samples:
        filled = mixed_samples.fill_rows(of_round, budget)
        ready.append(assemble(filled + [[]] * (rows - len(filled)), budget, size.config))
    tx = optimizer.build(OptimizerConfig(learning_rate=RATE, warmup_ratio=0.0, floor_ratio=1.0), 1000)
    params = init_params(size.config, seed=0)
    train_state = state.create(params, TRAINABLE, tx)
    frozen = {path: x.astype(size.config.dtype) for path, x in train_state.frozen.items()}
    train_state = train_state.replace(frozen=frozen)
    del params, frozen
    step = make_train_step(Ola(size.config), tx, microbatches=rows if size.one_row_at_a_time else 1)
    for batch in ready:
        train_state, metrics = step(train_state, batch)
        yield {"loss": float(metrics["loss"]), "grad_norm": float(metrics["grad_norm"])}


def theirs(args: Args, packed: bool) -> Iterator[dict[str, float]]:
    """As `ours`, in PyTorch."""
    jax.config.update("jax_platforms", "cpu")  # JAX makes the weights here, no more
    import torch
    import torch_ola

    from ola_jax.convert import names

    size = size_of(args)
    samples = batches(size, args.rounds)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        model = torch_ola.TorchOla(size.config)
    tensors = names.to_torch(size.config, init_params(size.config, seed=0))
    half = size.config.dtype == "bfloat16"
    frozen = (names.VISION, names.WHISPER)
    weights = {
        name: torch.tensor(x).to(device, torch.bfloat16 if half and name.startswith(frozen) else None)
        for name, x in tensors
    }
    model.load_state_dict(weights, assign=True)
    rotary = model.model.rotary_emb  # its frequencies are in no state dict
    model.model.rotary_emb = type(rotary)(torch_ola.qwen2_config(size.config.llm)).to(device)
    if size.config.remat != "none":
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trainer = torch_ola.Trainer(model, RATE, autocast=half)
    budget, _ = cheapest_budget(size.config, samples, size.row_tokens)
    for of_round in samples:
        rows = mixed_samples.fill_rows(of_round, budget) if packed else [[s] for s in of_round]
        at_a_time = (1 if size.one_row_at_a_time else len(rows)) if packed else args.torch_rows
        loss, norm = trainer.step(rows, at_a_time)
        if device == "cuda":
            torch.cuda.synchronize()
        yield {"loss": loss, "grad_norm": norm}


def be_the_process_of(args: Args) -> None:
    """Answer each line of the input by a round: its time and loss, and the memory used so far, as JSON."""
    steps = ours(args) if args.form == "ola_jax" else theirs(args, args.form == "torch packed")
    for _ in sys.stdin:
        begin = time.perf_counter()
        found = next(steps)
        found["seconds"] = time.perf_counter() - begin
        print(json.dumps(found | {"peak_bytes": peak_bytes(args.form), "device": device_kind()}), flush=True)


def device_kind() -> str:
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.get_device_name()
    return jax.devices()[0].device_kind


def peak_bytes(form: str) -> int:
    """Of the accelerator's memory; on a CPU, of the process."""
    torch = sys.modules.get("torch")
    if form != "ola_jax" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    stats = jax.devices()[0].memory_stats() if form == "ola_jax" else None
    return (stats or {}).get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def useful_flops(config: OlaConfig, samples: list[Sample]) -> float:
    """Of a training step on these samples, nothing but them."""
    total = 0.0
    for sample in samples:
        parts = [Budget(len(sample.tokens)), Budget(0, audio_chunks=len(sample.audio))]
        parts += [Budget(0, 1, len(image.patches)) for image in sample.images]
        total += sum(
            sum(flops.count_step(config, part, rows=1, trainable=TRAINABLE).values()) for part in parts
        )
    return total


def measure(args: Args) -> dict[str, list[dict[str, Any]]]:
    """Of each form, what each round gave."""

    def start(form: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *sys.argv, "--size", args.size, "--form", form],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round_of(process: subprocess.Popen) -> dict[str, Any]:
        process.stdin.write("step\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise OlaError(f"the process of a form ended with status {process.wait()}; see above")
        return json.loads(line)

    found: dict[str, list[dict[str, Any]]] = {form: [] for form in args.forms}
    turns = [args.forms] if jax.default_backend() == "cpu" else [(form,) for form in args.forms]
    for forms in turns:
        processes = {form: start(form) for form in forms}
        for _ in range(args.rounds + 1):
            for form, process in processes.items():
                found[form].append(round_of(process))
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return found


def main() -> None:
    """Measure, show, write."""
    args = tyro.cli(Args, description=__doc__)
    if args.form:
        be_the_process_of(args)
        return
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process and the others share a GPU
    if args.size is None:
        args = dataclasses.replace(args, size="small" if jax.default_backend() == "cpu" else "7b")
    size = size_of(args)
    samples = batches(size, args.rounds)
    budget, rows = cheapest_budget(size.config, samples, size.row_tokens)
    tokens = [sum(len(s.tokens) for s in of_round) for of_round in samples]
    found = measure(args)
    device = found[args.forms[0]][0]["device"]
    peak = hardware.CHIPS[device].flops if device in hardware.CHIPS else None
    needed = statistics.mean(useful_flops(size.config, of_round) for of_round in samples[1:])
    table = rich.table.Table(title=f"one update from {size.samples} mixed samples on {device}")
    for column in ("form", "s", "tokens/s", "against ola_jax", "MFU, %", "peak GB", "first round, s", "loss"):
        table.add_column(column, justify="left" if column == "form" else "right")
    results = []
    for form, of_rounds in found.items():
        seconds = statistics.median(r["seconds"] for r in of_rounds[1:])
        base = statistics.median(r["seconds"] for r in found[args.forms[0]][1:])
        result = {
            "form": form,
            "seconds": seconds,
            "tokens_per_second": statistics.mean(tokens[1:]) / seconds,
            "ratio": base / seconds,
            "mfu": needed / seconds / peak if peak else None,
            "peak_bytes": max(r["peak_bytes"] for r in of_rounds),
            "first_seconds": of_rounds[0]["seconds"],
            "losses": [r["loss"] for r in of_rounds],
            "grad_norms": [r["grad_norm"] for r in of_rounds],
        }
        results.append(result)
        table.add_row(
            form,
            f"{seconds:.2f}",
            f"{result['tokens_per_second']:,.0f}",
            f"{result['ratio']:.2f}",
            f"{100 * result['mfu']:.1f}" if peak else "",
            f"{result['peak_bytes'] / 1e9:.2f}",
            f"{result['first_seconds']:.1f}",
            f"{result['losses'][0]:.4f} ... {result['losses'][-1]:.4f}",
        )
    console = rich.console.Console(width=120)
    console.print(table)
    filled = 100 * statistics.mean(tokens[1:]) / (rows * budget.tokens)
    console.print(
        f"ours: {rows} rows of {budget.tokens} tokens ({filled:.0f} % filled), {budget.windows} windows of "
        f"{budget.window_patches} patches, {budget.audio_chunks} chunks; a round needs "
        f"{needed / 1e12:.2f} TFLOP; {platform.machine()}, Python {platform.python_version()}, "
        f"jax {jax.__version__}"
    )
    if args.json:
        facts = {"device": device, "args": dataclasses.asdict(args) | {"json": str(args.json)}}
        args.json.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
