"""Weights between released PyTorch checkpoints and ola_jax, both ways: `python convert_weights.py --help`."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import rich.console
import rich.progress
import tyro

from ola_jax import checkpoint
from ola_jax.convert import exporter, importer
from ola_jax.errors import run


def import_released(
    source: Annotated[pathlib.Path, tyro.conf.arg(name="from", metavar="HF_DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")],
    whisper: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None,
    beats: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None,
    vision_heads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    whisper_heads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    dtype: Literal["keep", "float32", "bfloat16"] = "keep",
    check_finite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Reads a released checkpoint and writes an ola_jax checkpoint, for train.py and ola_jax.infer.

    Args:
        source: the released checkpoint: config.json, safetensors, tokenizer.
        to: the directory to write; an ola_jax checkpoint that is there is replaced.
        whisper: Whisper in OpenAI's format (large-v3.pt), instead of a copy inside the checkpoint.
        beats: BEATs in its {cfg, model} format, instead of a copy inside the checkpoint.
        vision_heads: attention heads of the vision encoder, which the released format does not store.
        whisper_heads: attention heads of Whisper, where no --whisper FILE says it.
        dtype: of all parameters; keep: each as it is stored.
        check_finite: refuse a checkpoint with NaN or infinity in it.
    """
    checkpoint.check_destination(to)
    plan = importer.plan(source, whisper, beats, vision_heads, whisper_heads, dtype)
    with progress_bar("importing") as progress:
        importer.write(plan, to, check_finite, progress)
    for note in plan.notes:
        print(f"note: {note}")
    print(f"wrote {to}")


def export_released(
    source: Annotated[pathlib.Path, tyro.conf.arg(name="from", metavar="DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="HF_DIR")],
    speech_encoder: Literal["embedded", "separate"] = "embedded",
    whisper: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")] = None,
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


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    commands = {"import": import_released, "export": export_released}
    tyro.extras.subcommand_cli_from_dict(
        commands, args=arguments, prog="convert_weights.py", description=__doc__
    )


if __name__ == "__main__":
    run(main)
