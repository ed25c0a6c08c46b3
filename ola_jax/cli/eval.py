"""`ola eval --checkpoint DIR --task NAME --data FOLDER --output FOLDER`: scores a model on a benchmark.

`ola eval list` shows the tasks; `ola eval compare A B` compares the results of two runs.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

import rich.console
import rich.progress
import tyro

from ola_jax.cli.display import print_table
from ola_jax.compilation_cache import FOLDER, CompilationNotice, keep_compiled_programs
from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import Quirks
from ola_jax.eval.benchmarks import BENCHMARKS, benchmark
from ola_jax.eval.comparison import compare_runs, comparison_table
from ola_jax.eval.items import PromptName
from ola_jax.eval.judge import JudgeConfig
from ola_jax.eval.results import make_table
from ola_jax.eval.run import EvaluationJob, evaluate, read_questions_of
from ola_jax.generate.engine import Engine, EngineConfig

LENGTH_MULTIPLE = 256  # tokens of a slot are rounded up to it


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score a model on a benchmark, from the benchmark's published files.

    The output folder gets answers.jsonl (written while the model answers: the same command resumes),
    results.json, scores.jsonl and results.png. `ola eval list` shows the tasks, `ola eval compare A B`
    compares two output folders.
    """

    checkpoint: pathlib.Path  # an ola_jax checkpoint directory
    task: str  # a name of `ola eval list`
    data: pathlib.Path  # the folder with the benchmark's files
    output: pathlib.Path  # a folder for answers and results
    prompt: PromptName | None = None  # whose wording and rule; the first that `ola eval list` shows
    limit: int | None = None  # ask only the first questions
    max_new_tokens: int | None = None  # of an answer; else the benchmark's
    sound: bool = True  # videos with their own sound track
    paper_quirks: bool = False  # the settings of the paper's own runs for this task, as the next two
    high_view_only: bool = False  # images without their low-resolution view
    enlarge_small_images: bool = False  # images with a side below 32 pixels
    only_published_files: bool = False  # refuse files whose checksum is not the published one
    judge_url: str | None = None  # a server with OpenAI's API, such as http://localhost:8000/v1
    judge_model: str | None = None
    judge_key_file: pathlib.Path | None = None  # a file that holds the judge's API key
    slots: int = 8  # questions that are answered at the same time
    length: int | None = None  # tokens of a prompt and its answer; else what the checkpoint allows
    prefill_chunk: int = 256  # tokens of a prompt that are read between two steps of the others
    steps: int = 4  # tokens that each answer gets per call of the device
    dtype: Literal["float32", "bfloat16"] | None = None  # of matrix products and the cache
    tensor: int = 1  # devices that the decoder is split over
    decode_workers: int = 4  # questions whose media are decoded at the same time
    compilation_cache: str = FOLDER  # folder that keeps compiled programs for the next start; or none


@dataclasses.dataclass(frozen=True)
class CompareArguments:
    """Compare two output folders of `ola eval`: differences over the same questions, with 95 % intervals."""

    first: tyro.conf.Positional[pathlib.Path]
    second: tyro.conf.Positional[pathlib.Path]


def main(arguments: Sequence[str] | None = None, prog: str = "ola eval") -> None:
    """Runs the command line (`arguments`: instead of the program's own)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["list"]:
        _list_tasks()
    elif given[:1] == ["compare"]:
        chosen = tyro.cli(CompareArguments, args=given[1:], prog=f"{prog} compare")
        rich.console.Console().print(comparison_table(compare_runs(chosen.first, chosen.second)))
    else:
        run(tyro.cli(Arguments, args=given, prog=prog))


def run(args: Arguments) -> None:
    """Evaluates. Raises OlaError for mistakes of the user."""
    task = benchmark(args.task)
    quirks = Quirks(args.high_view_only, args.enlarge_small_images)
    if args.paper_quirks:
        quirks = task.paper_quirks
    job = EvaluationJob(
        task,
        args.checkpoint,
        args.data,
        args.output,
        prompt=task.prompt_name(args.prompt),
        quirks=quirks,
        sound=args.sound,
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        workers=args.decode_workers,
        judge=_judge(args),
        only_published_files=args.only_published_files,
    )
    if args.decode_workers < 1:
        raise OlaError(f"decode_workers is {args.decode_workers}; it must be 1 or more")
    questions = read_questions_of(job)
    for found in questions.checksums:
        if found.verdict == "other":
            print(
                f"note: {found.file} has MD5 {found.md5}, the published file {found.known}", file=sys.stderr
            )
    keep_compiled_programs(args.compilation_cache)
    notice = CompilationNotice(args.compilation_cache)
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.TextColumn(task.name),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        shown = bar.add_task("", total=len(questions.items))
        scores = evaluate(
            job,
            lambda: _load_engine(args, job, notice),
            settings={"dtype": args.dtype, "tensor": args.tensor},
            progress=lambda done, total: bar.update(shown, completed=done, total=total),
            questions=questions,
        )
    notice.end()
    rich.console.Console().print(make_table(task, scores, len(questions.source.items)))
    print(f"results: {args.output / 'results.json'}")


def _judge(args: Arguments) -> JudgeConfig | None:
    if args.judge_url is None and args.judge_model is None:
        return None
    if args.judge_url is None or args.judge_model is None:
        raise OlaError("a judge needs both --judge-url and --judge-model")
    key = None
    if args.judge_key_file is not None:
        try:
            key = args.judge_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OlaError(f"{args.judge_key_file}: the judge's key cannot be read") from error
    return JudgeConfig(args.judge_url, args.judge_model, key)


def _load_engine(args: Arguments, job: EvaluationJob, notice: CompilationNotice) -> Engine:
    from ola_jax.checkpoint import load_configs

    new = job.max_new_tokens or job.benchmark.max_new_tokens
    longest = load_configs(args.checkpoint)[1].max_length + new
    length = args.length or -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    config = EngineConfig(
        slots=args.slots,
        length=length,
        prefill_chunk=args.prefill_chunk,
        steps=args.steps,
        queue=2 * args.slots + args.decode_workers,
        kept_features=0,
        dtype=args.dtype,
        tensor=args.tensor,
    )
    engine = Engine.from_pretrained(args.checkpoint, config)
    engine.warm_up(notice.begin)
    notice.end()
    return engine


def _list_tasks() -> None:
    rows = [
        (name, task.title, task.modality, ", ".join(task.wordings), task.judged or "", task.expects)
        for name, task in BENCHMARKS.items()
    ]
    print_table(("task", "title", "modality", "prompts", "judge", "data"), rows)
