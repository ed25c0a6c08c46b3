"""Converts weights between released PyTorch checkpoints and ola_jax, and compares them."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import tyro

from ola_jax import checkpoint
from ola_jax.cli import display
from ola_jax.convert import hub, verify
from ola_jax.convert.export_job import find_model, prepare_export
from ola_jax.convert.exporter import write_released
from ola_jax.convert.import_job import ImportJob, prepare_import
from ola_jax.convert.importer import write_checkpoint
from ola_jax.convert.projector_init import parse_parts
from ola_jax.eval.logits import FeatureAgreement, LogitAgreement, compare_outputs

File = Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE")]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclasses.dataclass(frozen=True)
class PartOptions:
    """Options for parts of a model that the released checkpoint lacks or stores elsewhere.

    Args:
        whisper: Whisper in OpenAI's format (large-v3.pt), used instead of a copy inside the checkpoint.
        beats: BEATs in its {cfg, model} format, used instead of a copy inside the checkpoint.
        vision: a vision encoder for a checkpoint without one: OryxViT's file, or a SigLIP of transformers.
        init: projectors to initialize at random, untrained: vision_projector,speech_projector.
        adapter: a LoRA or DoRA in PEFT's layout, folded into the weights.
        vocabulary: tokenizer: resize the embeddings to the tokenizer, as the original does on loading.
        vision_heads: attention heads of the vision encoder, which the released format does not store.
        whisper_heads: attention heads of Whisper, needed only without --whisper FILE.
        dtype: of all parameters; keep: each in its stored dtype.
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

    def prepare(self, released: str) -> ImportJob:
        """The released checkpoint (a directory, or a hub id) with these parts, checked."""
        return prepare_import(
            hub.fetch(released),
            whisper=self.whisper,
            beats=self.beats,
            vision=hub.fetch(self.vision) if self.vision else None,
            init=parse_parts(self.init),
            adapter=self.adapter,
            resize_vocabulary=self.vocabulary == "tokenizer",
            vision_heads=self.vision_heads,
            whisper_heads=self.whisper_heads,
            dtype=self.dtype,
        )


def import_released(
    *,
    source: Annotated[str, tyro.conf.arg(name="from", metavar="HF_DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")],
    parts: Annotated[PartOptions, tyro.conf.arg(name="")] = PartOptions(),
    check_finite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Imports a released PyTorch checkpoint: writes an ola_jax checkpoint, to train from or to ask.

    Args:
        source: the released checkpoint (config.json, safetensors, tokenizer), or a hub id such as
            THUdyh/Ola-7b.
        to: the directory to write; an ola_jax checkpoint in it is replaced.
        parts: parts that are not in the checkpoint.
        check_finite: refuse a checkpoint that contains NaN or infinity.
    """
    checkpoint.check_destination(to)
    job = parts.prepare(source)
    with display.progress_bar("importing") as progress:
        write_checkpoint(job, to, check_finite=check_finite, progress=progress)
    display.print_result(job.notes, to)


def export_released(
    *,
    source: Annotated[pathlib.Path, tyro.conf.arg(name="from", metavar="DIR")],
    to: Annotated[pathlib.Path, tyro.conf.arg(metavar="HF_DIR")],
    speech_encoder: Literal["embedded", "separate"] = "embedded",
    whisper: File = None,
    max_shard_size: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "5GB",
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep",
) -> None:
    """Exports an ola_jax checkpoint: writes the released PyTorch layout, which the original's code loads.

    Args:
        source: an ola_jax checkpoint, or the directory of a training stage.
        to: the directory to write; it must be new or empty.
        speech_encoder: where Whisper and BEATs go: into the safetensors, or into .pt files beside them.
        whisper: with separate: OpenAI's file, whose decoder (which Ola does not use) is copied.
        max_shard_size: the largest size of one safetensors file.
        dtype: of all tensors; keep: each in its stored dtype.
    """
    job = prepare_export(source, speech_encoder=speech_encoder, dtype=dtype, whisper=whisper)
    with display.progress_bar("exporting") as progress:
        write_released(job, to, max_shard_size=max_shard_size, progress=progress)
    display.print_result(job.notes, to)


def verify_import(
    *,
    ours: Annotated[pathlib.Path, tyro.conf.arg(name="jax", metavar="DIR")],
    theirs: Annotated[str, tyro.conf.arg(name="torch", metavar="HF_DIR")],
    parts: Annotated[PartOptions, tyro.conf.arg(name="")] = PartOptions(),
    logits: File = None,
    json_file: Annotated[pathlib.Path | None, tyro.conf.arg(name="json", metavar="FILE")] = None,
) -> None:
    """Compares every tensor of an ola_jax checkpoint with a released one; status 1 if any value differs.

    Args:
        ours: the ola_jax checkpoint, or the directory of a training stage.
        theirs: the released checkpoint: a directory, or a hub id.
        parts: the options of the import. PartOptions named by --init are not compared.
        logits: also compare logits, in float32, for the prompts (texts or records) of this JSON array.
        json_file: write all figures to this file.
    """
    ours, _ = find_model(ours)
    job = parts.prepare(theirs)
    with display.progress_bar("comparing") as progress:
        differences = verify.compare_tensors(ours, job, progress)
    total = _print_differences(differences)
    if job.initialized:
        print(f"note: not compared, because --init makes them untrained: {', '.join(job.initialized)}")
    figures: dict[str, Any] = {
        "tensors": [dataclasses.asdict(d) | {"relative": d.relative} for d in differences]
    }
    if logits:
        agreements, features = compare_outputs(ours, job, logits)
        _print_agreements(agreements)
        if features:
            _print_features(features)
        figures["logits"] = [dataclasses.asdict(a) for a in agreements]
        figures["features"] = [dataclasses.asdict(f) for f in features]
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if total.max_abs:
        sys.exit(1)


def _print_differences(differences: Sequence[verify.Difference]) -> verify.Difference:
    """Prints a table of the parts and the tensors that differ most; returns the sum of all."""
    parts = verify.sum_by_part(differences)
    display.print_table(
        ("part", "tensors", "bits", "max abs", "relative"),
        ((part, d.tensors, d.verdict, _short(d.max_abs), _short(d.relative)) for part, d in parts.items()),
    )
    worst = [d for d in sorted(differences, key=lambda d: -d.relative) if not d.identical][:8]
    for d in worst:
        print(
            f"{d.path}: {' and '.join(d.dtypes)}, max abs {_short(d.max_abs)}, relative {_short(d.relative)}"
        )
    return parts["all"]


def _short(number: float) -> str:
    return f"{number:.3g}"


def _print_agreements(agreements: Sequence[LogitAgreement]) -> None:
    display.print_table(
        ("prompt", "positions", "max abs", "relative", "top-1", "KL"),
        (
            (a.prompt, a.positions, _short(a.max_abs), _short(a.relative), f"{a.top1:.2%}", _short(a.kl))
            for a in agreements
        ),
    )


def _print_features(features: Sequence[FeatureAgreement]) -> None:
    display.print_table(
        ("prompt", "encoder", "vectors", "max abs", "relative"),
        ((f.prompt, f.encoder, f.vectors, _short(f.max_abs), _short(f.relative)) for f in features),
    )


def main(arguments: Sequence[str] | None = None, prog: str = "ola convert") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    commands: dict[str, Callable[..., None]] = {
        "import": import_released,
        "export": export_released,
        "verify": verify_import,
    }
    tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog=prog, description=__doc__)
