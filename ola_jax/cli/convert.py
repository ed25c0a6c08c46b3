"""Weights between released PyTorch checkpoints and ola_jax, both ways."""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Literal

import rich.console
import rich.progress
import rich.table
import tyro

from ola_jax import checkpoint
from ola_jax.convert import exporter, hub, importer, projector_init
from ola_jax.convert import verify as tensors
from ola_jax.eval.logits import compare as compare_logits

File = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a model is put together from beside the released checkpoint.

    Args:
        whisper: Whisper in OpenAI's format (large-v3.pt), instead of a copy inside the checkpoint.
        beats: BEATs in its {cfg, model} format, instead of a copy inside the checkpoint.
        vision: a vision encoder for a checkpoint without: OryxViT's file, or SigLIP of transformers.
        init: projectors to be made anew, untrained: vision_projector,speech_projector.
        adapter: a LoRA or DoRA in PEFT's layout, merged into the weights.
        vocabulary: tokenizer: as many embeddings as tokens, as the original resizes them on loading.
        vision_heads: attention heads of the vision encoder, which the released format does not store.
        whisper_heads: attention heads of Whisper, where no --whisper FILE says it.
        dtype: of all parameters; keep: each as it is stored.
    """

    whisper: File = None
    beats: File = None
    vision: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    init: Annotated[str, tyro.conf.arg(metavar="PARTS")] = ""
    adapter: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    vocabulary: Literal["keep", "tokenizer"] = "keep"
    vision_heads: Number = None
    whisper_heads: Number = None
    dtype: Literal["keep", "float32", "bfloat16"] = "keep"

    def plan(self, released: str) -> importer.Plan:
        """The released checkpoint (a directory, or a hub id) with these, checked."""
        return importer.plan(
            hub.fetch(released),
            self.whisper,
            self.beats,
            self.vision_heads,
            self.whisper_heads,
            self.dtype,
            hub.fetch(self.vision) if self.vision else None,
            self.adapter,
            projector_init.parse_parts(self.init),
            self.vocabulary,
        )


def import_released(
    source: Annotated[str, tyro.conf.arg(name="from", metavar="HF_DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")],
    sources: Annotated[Sources, tyro.conf.arg(name="")] = Sources(),
    check_finite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Reads a released checkpoint and writes an ola_jax checkpoint, for train.py and ola_jax.infer.

    Args:
        source: the released checkpoint: config.json, safetensors, tokenizer. Or a hub id, THUdyh/Ola-7b.
        to: the directory to write; an ola_jax checkpoint that is there is replaced.
        sources: what it is put together from.
        check_finite: refuse a checkpoint with NaN or infinity in it.
    """
    checkpoint.check_destination(to)
    plan = sources.plan(source)
    with progress_bar("importing") as progress:
        importer.write(plan, to, check_finite, progress)
    for note in plan.notes:
        print(f"note: {note}")
    print(f"wrote {to}")


def export_released(
    source: Annotated[pathlib.Path, tyro.conf.arg(name="from", metavar="DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="HF_DIR")],
    speech_encoder: Literal["embedded", "separate"] = "embedded",
    whisper: File = None,
    max_shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB",
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep",
) -> None:
    """Writes an ola_jax checkpoint in the released PyTorch layout, which the original's code loads.

    Args:
        source: an ola_jax checkpoint, or the directory of a training stage.
        to: the directory to write; it must not be there yet, or be empty.
        speech_encoder: Whisper and BEATs inside the safetensors, or in .pt files beside them.
        whisper: with separate: OpenAI's file, whose decoder (which Ola does not use) is taken over.
        max_shard_size: of one safetensors file, such as 5GB.
        dtype: of all tensors; keep: each as it is stored.
    """
    plan = exporter.plan(source, speech_encoder, dtype, whisper)
    with progress_bar("exporting") as progress:
        exporter.write(plan, to, max_shard_size, progress)
    for note in plan.notes:
        print(f"note: {note}")
    print(f"wrote {to}")


def verify(
    ours: Annotated[pathlib.Path, tyro.conf.arg(name="jax", metavar="DIR")],
    theirs: Annotated[str, tyro.conf.arg(name="torch", metavar="HF_DIR")],
    sources: Annotated[Sources, tyro.conf.arg(name="")] = Sources(),
    logits: File = None,
    json_file: Annotated[pathlib.Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Compares every tensor of an ola_jax checkpoint with a released one; status 1 if any value differs.

    Args:
        ours: the ola_jax checkpoint, or the directory of a training stage.
        theirs: the released checkpoint: a directory, or a hub id.
        sources: what it was put together from: the options of import. Parts of --init are not compared.
        logits: also compare logits, in float32, for the prompts (texts or records) of this JSON array.
        json_file: write all figures here.
    """
    ours, _ = exporter.model_directory(ours)
    plan = sources.plan(theirs)
    with progress_bar("comparing") as progress:
        differences = tensors.compare(ours, plan, progress)
    parts = tensors.by_part(differences)
    console = rich.console.Console()
    columns = ("part", "tensors", "bits", "max abs", "relative")
    rows = [
        (part, d.tensors, d.verdict, f"{d.max_abs:.3g}", f"{d.relative:.3g}") for part, d in parts.items()
    ]
    console.print(table(columns, rows))
    if plan.fresh:
        print(f"note: not compared, since --init makes them untrained: {', '.join(plan.fresh)}")
    worst = [d for d in sorted(differences, key=lambda d: -d.relative) if not d.identical][:8]
    for d in worst:
        print(f"{d.path}: {' and '.join(d.dtypes)}, max abs {d.max_abs:.3g}, relative {d.relative:.3g}")
    figures: dict = {"tensors": [dataclasses.asdict(d) | {"relative": d.relative} for d in differences]}
    if logits:
        agreements, features = compare_logits(ours, plan, logits)
        columns = ("prompt", "positions", "max abs", "relative", "top-1", "KL")
        rows = [
            (a.prompt, a.positions, f"{a.max_abs:.3g}", f"{a.relative:.3g}", f"{a.top1:.2%}", f"{a.kl:.3g}")
            for a in agreements
        ]
        console.print(table(columns, rows))
        figures["logits"] = [dataclasses.asdict(a) for a in agreements]
        if features:
            columns = ("prompt", "encoder", "vectors", "max abs", "relative")
            rows = [
                (f.prompt, f.encoder, f.vectors, f"{f.max_abs:.3g}", f"{f.relative:.3g}") for f in features
            ]
            console.print(table(columns, rows))
        figures["features"] = [dataclasses.asdict(f) for f in features]
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if parts["all"].max_abs:
        sys.exit(1)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> rich.table.Table:
    """A table; numbers to the right."""
    out = rich.table.Table()
    for number, name in enumerate(columns):
        out.add_column(name, justify="right" if number else "left")
    for row in rows:
        out.add_row(*map(str, row))
    return out


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows GB done, GB/s and the time left, on a terminal; yields what is to be told (done, total) bytes."""
    columns = (
        rich.progress.TextColumn(what),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(arguments: Sequence[str] | None = None, prog: str = "ola convert") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    commands = {"import": import_released, "export": export_released, "verify": verify}
    tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog=prog, description=__doc__)
