"""A benchmark from checkpoint and data to results."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ola_jax import checkpoint
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.eval.answers import Answer, AnswerFile
from ola_jax.eval.asking import Asking, ask_all
from ola_jax.eval.benchmark import Benchmark, Quirks, Source
from ola_jax.eval.grading import Scores, grade
from ola_jax.eval.items import Item, PromptName
from ola_jax.eval.judge import Judge, JudgeConfig
from ola_jax.eval.perplexity import make_likelihood, score_likelihoods
from ola_jax.eval.published import Checksum, checksum
from ola_jax.eval.results import write_results
from ola_jax.generate.engine import Engine
from ola_jax.models.ola import Ola
from ola_jax.training.digests import digest
from ola_jax.training.output_lock import locked

SMALLEST_SIDE = 32  # pixels, below which the paper's runs enlarged images


@dataclasses.dataclass(frozen=True)
class EvaluationJob:
    """An evaluation: benchmark, model, data, settings."""

    benchmark: Benchmark
    checkpoint: pathlib.Path
    data: pathlib.Path
    output: pathlib.Path
    prompt: PromptName
    quirks: Quirks = Quirks()  # noqa: RUF009 - frozen
    sound: bool = True
    limit: int | None = None  # only the first questions
    max_new_tokens: int | None = None  # None: the benchmark's
    workers: int = 4
    judge: JudgeConfig | None = None
    only_published_files: bool = False  # other checksums are an error


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """The questions of a job, and the checksums of the files that they came from."""

    source: Source
    items: list[Item]  # those that are asked
    checksums: list[Checksum]


def read_questions_of(job: EvaluationJob) -> Questions:
    """Reads the benchmark's files. Raises OlaError for other files than expected."""
    if job.limit is not None and job.limit < 1:
        raise OlaError(f"limit is {job.limit}; it must be 1 or more")
    if not job.data.exists():
        raise OlaError(f"{job.data}: no such folder; expected {job.benchmark.expects}")
    source = job.benchmark.read(job.data)
    checksums = [checksum(file, job.benchmark.known_md5) for file in source.files]
    if job.only_published_files and (other := [c for c in checksums if c.verdict != "as published"]):
        known = other[0].known or "none is known"
        raise OlaError(f"{job.data}: {other[0].file} has MD5 {other[0].md5}; published: {known}")
    items = with_unique_ids(source.items)
    return Questions(source, items[: job.limit], checksums)


def with_unique_ids(items: Sequence[Item]) -> list[Item]:
    """The items; later ones of the same id get "#2" and so on."""
    seen: dict[str, int] = {}
    unique = []
    for item in items:
        seen[item.id] = seen.get(item.id, 0) + 1
        number = seen[item.id]
        unique.append(item if number == 1 else dataclasses.replace(item, id=f"{item.id}#{number}"))
    return unique


def evaluate(
    job: EvaluationJob,
    load_engine: Callable[[], Engine],
    *,
    settings: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    questions: Questions | None = None,
) -> Scores:
    """Answers what is not answered yet, scores all answers, and writes the results to the output folder.

    `load_engine` is called only if something is to be asked, and is given the quirks by `with_quirks`;
    `settings` are further ones that answers depend on, such as the dtype.
    """
    questions = questions or read_questions_of(job)
    with locked(job.output):
        facts = answer_settings(job, questions) | (settings or {})
        with AnswerFile(job.output, facts) as file:
            _answer(job, questions, file, load_engine, progress)
            answers = dict(file.answers)
        scores = score_answers(job, questions, answers)
        write_results(
            job.output,
            job.benchmark,
            scores,
            questions=len(questions.source.items),
            facts={
                "settings": facts,
                "checksums": [dataclasses.asdict(c) | {"verdict": c.verdict} for c in questions.checksums],
                "judge": None if job.judge is None else {"url": job.judge.url, "model": job.judge.model},
            },
        )
    return scores


def score_answers(job: EvaluationJob, questions: Questions, answers: dict[str, Answer]) -> Scores:
    """Scores of the answers to a job's questions."""
    ask = None if job.judge is None or job.benchmark.judge is None else Judge(job.judge, job.output)
    return grade(job.benchmark, questions.items, answers, job.prompt, ask)


def answer_settings(job: EvaluationJob, questions: Questions) -> dict[str, Any]:
    """The settings that answers depend on: others are not mixed with them."""
    from importlib.metadata import version

    if (model := digest(job.checkpoint)) is None:
        raise OlaError(f"{job.checkpoint}: no such checkpoint")
    return {
        "ola_jax": version("ola_jax"),
        "task": job.benchmark.name,
        "prompt": job.prompt,
        "checkpoint_sha256": model,
        "data_md5": {c.file: c.md5 for c in questions.checksums},
        "quirks": dataclasses.asdict(job.quirks),
        "sound": job.sound,
        "max_new_tokens": job.max_new_tokens or job.benchmark.max_new_tokens,
        "temperature": 0.0,
    }


def with_quirks(processor: Processor, quirks: Quirks) -> Processor:
    """The processor with the settings of the paper's runs that are asked for."""
    limits = dataclasses.replace(
        processor.limits,
        high_view_only=quirks.high_view_only,
        smallest_image_side=SMALLEST_SIDE if quirks.enlarge_small_images else 0,
    )
    settings = processor.processor_config
    if processor.preset == "train":
        config = dataclasses.replace(settings, train=limits)
    else:
        config = dataclasses.replace(settings, infer=limits)
    return dataclasses.replace(processor, processor_config=config)


def _answer(
    job: EvaluationJob,
    questions: Questions,
    file: AnswerFile,
    load_engine: Callable[[], Engine],
    progress: Callable[[int, int], None],
) -> None:
    total = len(questions.items)
    done = lambda item: item.id in file.answers and file.answers[item.id].error is None
    left = [item for item in questions.items if not done(item)]
    progress(total - len(left), total)
    if not left:
        return
    finished, failures = total - len(left), [0]

    def receive(answer: Answer) -> None:
        nonlocal finished
        file.add(answer)
        finished += 1
        failures[0] += answer.error is not None
        if failures[0] == finished == len(left) == total:
            raise OlaError(f"none of the questions could be asked; the last: {answer.error}")
        progress(finished, total)

    if job.benchmark.kind == "likelihood":
        config, params = checkpoint.load(job.checkpoint)
        loaded = with_quirks(Processor.from_pretrained(job.checkpoint, preset="infer"), job.quirks)
        with loaded.isolated() as processor:
            score_likelihoods(make_likelihood(Ola(config), params, processor), processor, left, receive)
        return
    engine = load_engine()
    engine.processor = with_quirks(engine.processor, job.quirks)
    asking = Asking(
        job.benchmark.wordings[job.prompt],
        job.max_new_tokens or job.benchmark.max_new_tokens,
        sound=job.sound,
        workers=job.workers,
    )
    with engine:
        ask_all(engine, left, asking, receive)
