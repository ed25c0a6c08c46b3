"""`ola data check|prepare|plan FILE...`: checks and prepares data sets, and compares budgets for them.

The sizes of records depend on the model: name a config (--config) or a checkpoint (--checkpoint).
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

from ola_jax.cli.display import print_table, record_progress
from ola_jax.data.budgets import recommend_budgets
from ola_jax.data.checking import check_source
from ola_jax.data.identity import source_index_path
from ola_jax.data.index import concatenate, load_index
from ola_jax.data.measure import describe_settings
from ola_jax.data.prepare import StoreSettings, prepare_source
from ola_jax.data.processor import Processor
from ola_jax.data.report import describe_index, draw_histograms
from ola_jax.data.sources import Source
from ola_jax.errors import OlaError
from ola_jax.run.inputs import load_processor
from ola_jax.training.load_config import load_config

EPILOG = """FILE: JSON or JSON Lines of Ola or LLaVA, a YAML mixture of LLaVA, Parquet, a tar file of
webdataset, a folder of Parquet or tar files, a folder that `ola data prepare` wrote, or a pattern of names
in quotes. An interrupted command is resumed by the same command. See docs/data.md."""


def main(arguments: Sequence[str] | None = None, prog: str = "ola data") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    options = _parser(prog).parse_args(arguments)
    options.run(options)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False, description="Data sets for training.")
    commands = parser.add_subparsers(required=True, metavar="check | prepare | plan")
    check = commands.add_parser(
        "check",
        help="decodes every record, reports sizes and bad records, and writes the index for training",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--histograms", metavar="PNG", help="also draw the histograms into this file")
    check.set_defaults(run=_check)
    prepare = commands.add_parser(
        "prepare",
        help="writes shards in the format of TFDS with the media in them, and their index",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    prepare.add_argument("files", nargs=1, metavar="FILE")
    prepare.add_argument("--output", required=True, metavar="FOLDER")
    prepare.add_argument("--name", default="ola", help="of the data set")
    prepare.add_argument(
        "--video",
        choices=("frames", "file"),
        default="frames",
        help="store the frames that training uses, as JPEG: fast and lossy (the default); or the file",
    )
    prepare.add_argument("--jpeg_quality", type=int, default=90, metavar="1-100")
    prepare.add_argument(
        "--audio",
        choices=("flac", "file"),
        default="flac",
        help="store 16 kHz mono FLAC, rounded to 16 bits (the default); or the file",
    )
    prepare.add_argument("--shard_mb", type=int, default=256, help="size of a shard, about")
    prepare.set_defaults(run=_prepare)
    plan = commands.add_parser(
        "plan",
        help="compares budgets of a row for the records of files that were checked",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    plan.add_argument("files", nargs="+", metavar="FILE")
    plan.add_argument("--devices", type=int, required=True, help="that rows are distributed over")
    plan.add_argument("--batch_tokens", type=int, help="wanted in a batch; by default 16384 for each device")
    plan.add_argument("--covered", type=float, default=1.0, help="share of the records that must fit a row")
    plan.add_argument("--row_tokens", type=int, nargs="+", default=[4096, 8192, 16_384, 32_768])
    plan.set_defaults(run=_plan)
    for command in (check, prepare, plan):
        given = command.add_mutually_exclusive_group(required=True)
        given.add_argument("--config", metavar="FILE[:ARGUMENT]", help="of the training")
        given.add_argument("--checkpoint", metavar="FOLDER", help="of ola_jax")
        command.add_argument("--root", help="folder of relative media paths")
        command.add_argument(
            "--rewrite",
            nargs=2,
            action="append",
            default=[],
            metavar=("OLD", "NEW"),
            help="replace the beginning of media paths; may be repeated",
        )
        command.add_argument(
            "--bgr", action="store_true", help="frames of five sets as the original has them"
        )
        command.add_argument("--marks_are_text", action="store_true")
        command.add_argument("--split", default="train", help="of prepared shards")
        command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser


def _check(options: argparse.Namespace) -> None:
    processor, checked = load_data_processor(options), []
    for file in options.files:
        with record_progress(f"checking {pathlib.Path(file).name}") as progress:
            found = check_source(
                _source(options, file), processor, processes=options.processes, progress=progress
            )
        checked.append(found)
        print(f"{file}\n{describe_index(found.index)}\nindex: {found.index_path}")
        if found.bad_path:
            first = next(iter(found.index.failures.values()))
            print(f"bad records: {found.bad_path}; the first: {first.reason}")
    whole = concatenate([found.index for found in checked])
    if len(checked) > 1:
        print(f"all {len(checked)} files\n{describe_index(whole)}")
    if options.histograms:
        draw_histograms(whole, pathlib.Path(options.histograms), ", ".join(options.files))
        print(f"histograms: {options.histograms}")
    if whole.failures:
        sys.exit(1)


def _prepare(options: argparse.Namespace) -> None:
    settings = StoreSettings(options.video, options.jpeg_quality, options.audio)
    with record_progress("preparing") as progress:
        done = prepare_source(
            _source(options, options.files[0]),
            load_data_processor(options),
            options.output,
            name=options.name,
            settings=settings,
            shard_bytes=options.shard_mb * 2**20,
            processes=options.processes,
            progress=progress,
        )
    notes = done.notes
    print(describe_index(done.index))
    if notes.videos_as_jpeg:
        print(f"{notes.videos_as_jpeg} videos: frames as JPEG of quality {settings.jpeg_quality}, lossy")
    if notes.audio_rounded:
        print(f"{notes.audio_rounded} audio files: rounded to 16 bits")
    if notes.silent_videos:
        print(f"{notes.silent_videos} silent videos: the mark of audio is removed from their text")
    if done.bad_path:
        first = next(iter(done.failures.values()))
        print(f"{len(done.failures)} bad records left out: {done.bad_path}; the first: {first.reason}")
    print(f"wrote {done.folder}; to train on it: Source({str(done.folder)!r})")


def _plan(options: argparse.Namespace) -> None:
    for name in ("devices", "batch_tokens"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise OlaError(f"--{name} is {getattr(options, name)}; expected at least 1")
    if not 0 < options.covered <= 1:
        raise OlaError(f"--covered is {options.covered}; expected more than 0, at most 1")
    processor = load_data_processor(options)
    indices = []
    for file in options.files:
        path = source_index_path(file, options.split)
        if not path.exists():
            raise OlaError(f"{path}: no such index; write it with `ola data check {file}`")
        settings = describe_settings(processor, marks_are_text=options.marks_are_text)
        indices.append(load_index(path, settings=settings))
    choices = recommend_budgets(
        indices,
        processor.config,
        devices=options.devices,
        batch_tokens=options.batch_tokens or 16_384 * options.devices,
        row_tokens=options.row_tokens,
        covered=options.covered,
    )
    used = [name for name in choices[0].utilization if any(c.utilization[name] for c in choices)]
    rows = [
        (
            *dataclasses.astuple(choice.budget),
            choice.rows,
            f"{choice.samples_per_row:.1f}",
            *(f"{100 * choice.utilization[name]:.0f} %" for name in used),
            choice.too_large,
            f"{choice.cost / choices[0].cost:.2f}",
        )
        for choice in choices
    ]
    fields = [field.name for field in dataclasses.fields(choices[0].budget)]
    columns = [*fields, "rows", "samples in a row", *(f"{name} used" for name in used), "too large", "cost"]
    print_table(columns, rows)
    print("cost: FLOPs of the forward pass for each used token, the cheapest 1; rows: of a batch")
    best = choices[0]
    print(f"cheapest: budget={best.budget}, rows={best.rows}")


def _source(options: argparse.Namespace, file: str) -> Source:
    return Source(
        file,
        options.root,
        marks_are_text=options.marks_are_text,
        rewrite=tuple((old, new) for old, new in options.rewrite),
        bgr=options.bgr,
        split=options.split,
    )


def load_data_processor(options: argparse.Namespace) -> Processor:
    """The processor of the config or the checkpoint that is named."""
    if options.processes < 1:
        raise OlaError(f"--processes is {options.processes}; expected at least 1")
    if options.checkpoint:
        return Processor.from_pretrained(options.checkpoint)
    loaded = load_config([f"--config={options.config}"], "ola data")
    config = loaded.prepare(loaded.config) if loaded.prepare else loaded.config
    return load_processor(config)[0]
