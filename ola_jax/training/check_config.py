"""Checks of a TrainConfig before anything is opened: of single settings, and of how they fit together."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from ola_jax.errors import SettingsError
from ola_jax.training import settings
from ola_jax.training.config import (
    BadStepsConfig,
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    EvalTask,
    EvaluationConfig,
    LoggingConfig,
    Stage,
    TrainConfig,
)
from ola_jax.training.settings import ANY, COUNT, GIVEN, NATURAL, REGEX, SHARE, Rule, Rules, above, at_least

FOLDER = Rule(
    lambda name: bool(re.fullmatch(r"[^/\\\x00-\x1f]{1,100}", name)) and name.strip(" .") != "",
    "a name that a folder can have",
)
LOCAL = Rule(
    lambda path: bool(path.strip()) and "\0" not in path and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path),
    "a folder (mount a bucket, for example with gcsfuse, and give the folder)",
)
ADDRESS = Rule(lambda text: bool(re.fullmatch(r"\S+:[0-9]+", text)), "HOST:PORT")

RULES: Rules = settings.RULES | {
    Stage: {"name": FOLDER, "trainable": REGEX, "steps": COUNT, "rows": COUNT, "microbatches": COUNT},
    EvalTask: {"name": GIVEN, "title": ANY, "records": GIVEN, "root": ANY, "chance": SHARE},
    CheckpointConfig: {"save_every": COUNT, "keep": COUNT, "keep_best": NATURAL},
    LoggingConfig: {"log_every": COUNT, "wandb": GIVEN, "profile": COUNT},
    EvaluationConfig: {"every": NATURAL, "batches": COUNT, "rows": COUNT, "limit": COUNT},
    DataConfig: {
        "max_skipped": NATURAL,
        "max_bad_fraction": SHARE,
        "workers": NATURAL,
        "prefetch": NATURAL,
        "read_ahead_bytes": COUNT,
    },
    BadStepsConfig: {"max_skipped": NATURAL, "spike_factor": above(1)},
    DistributedConfig: {"coordinator": ADDRESS, "process_count": COUNT, "process_id": NATURAL},
    TrainConfig: {
        "output": LOCAL,
        "tokenizer": GIVEN,
        "generation": GIVEN,
        "example": ANY,
        "init_from": GIVEN,
        "seed": at_least(0, 2**32 - 1),
    },
}
SHOWN = 30  # problems in one message


def check_config(config: TrainConfig, to_train: bool = True) -> None:
    """Raises OlaError that names all settings that are impossible, or need others that are missing.

    Without `to_train` the step is only compiled: no data are needed.
    """
    broken = list(settings.find_broken(config, RULES))
    problems = broken + list(_find_misfits(config, broken, to_train))
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise SettingsError("; ".join(problems[:SHOWN]) + more)


def _find_misfits(config: TrainConfig, broken: list[str], to_train: bool) -> Iterator[str]:
    """Messages about settings that do not fit each other; only those with valid values are compared."""
    paths = [problem.partition(":")[0] for problem in broken]

    def possible(*settings: str) -> bool:
        """True if nothing is broken at, below or above any of the settings."""
        return not any(
            f"{path}.".startswith(f"{s}.") or s.startswith(f"{path}.") for path in paths for s in settings
        )

    if possible("model"):
        yield from settings.find_model_misfits(config.model)
    if possible("model", "processor"):
        yield from settings.find_processor_misfits(config.processor, config.model)
    stages = () if "stages" in paths else config.stages
    for number, stage in enumerate(stages):
        if f"stages.{number}" not in paths:
            in_stage = lambda *names, at=f"stages.{number}": possible(*[f"{at}.{name}" for name in names])
            yield from _find_stage_misfits(stage, f"stages.{number}", in_stage, to_train)
    if "stages" not in paths and not stages:
        yield "stages: none, expected at least one"
    if possible("stages"):
        yield from _find_shared_names("stages", [stage.name for stage in stages])
    if possible("tasks"):
        yield from _find_shared_names("tasks", [task.name for task in config.tasks])
    if possible("seed") and config.seed + len(stages) > 2**32:
        yield f"seed: {config.seed}, expected at most {2**32 - len(stages)}, as each stage adds 1"
    if possible("mesh"):
        sizes = [getattr(config.mesh, field.name) for field in dataclasses.fields(config.mesh)]
        if sizes.count(-1) > 1:
            yield "mesh: several axes are -1, expected one at most"
    checkpoint = [f"checkpoint.{name}" for name in ("keep_best", "best", "final_model")]
    if possible("tasks", *checkpoint, "evaluation.tasks", "evaluation.every"):
        yield from _find_evaluation_misfits(
            config, [s for i, s in enumerate(stages) if possible(f"stages.{i}")]
        )
    if possible("logging.profile") and config.logging.profile:
        first, last = config.logging.profile
        steps = [stage.steps for number, stage in enumerate(stages) if possible(f"stages.{number}.steps")]
        if first > last:
            yield f"logging.profile: steps {first} to {last}, expected 1 <= first <= last"
        elif first > max(steps, default=first):
            yield f"logging.profile: begins at step {first}, and no stage has so many steps"
    if possible("distributed"):
        yield from _find_process_misfits(config.distributed)


def _find_shared_names(path: str, names: Sequence[str]) -> Iterator[str]:
    for name, count in collections.Counter(names).items():
        if count > 1:
            yield f"{path}: {count} are named {settings.short(name)}, expected names that differ"


def _find_stage_misfits(
    stage: Stage, path: str, possible: Callable[..., bool], to_train: bool
) -> Iterator[str]:
    if possible("trainable", "lora") and not stage.trainable and not stage.lora.rank:
        yield f"{path}.trainable: empty, expected what is trained (or lora.rank above 0)"
    if possible("lora") and stage.lora.dora and not stage.lora.rank:
        yield f"{path}.lora.dora: set, and lora.rank is 0; set the rank as well"
    if possible("rows", "microbatches") and stage.rows % stage.microbatches:
        yield f"{path}.rows: {stage.rows}, expected a multiple of microbatches ({stage.microbatches})"
    if possible("budget") and bool(stage.budget.windows) > bool(stage.budget.window_patches):
        yield f"{path}.budget: {stage.budget.windows} windows of 0 patches, expected window_patches above 0"
    if possible("sources") and to_train and not stage.sources:
        yield f"{path}.sources: none, expected at least one file of records"
    for name, sources in (("sources", stage.sources), ("held_out", stage.held_out)):
        weighted = [source.weight is not None for source in sources] if possible(name) else []
        if any(weighted) and not all(weighted):
            yield f"{path}.{name}: {sum(weighted)} of {len(sources)} have a weight, expected all or none"


def _find_evaluation_misfits(config: TrainConfig, stages: Sequence[Stage]) -> Iterator[str]:
    checkpoint, evaluation = config.checkpoint, config.evaluation
    answers_tasks = evaluation.tasks and bool(config.tasks)
    if evaluation.tasks and not config.tasks:
        yield "evaluation.tasks: set, and there are no tasks"
    if evaluation.tasks and not evaluation.every:
        yield "evaluation.tasks: set, and evaluation.every is 0, so nothing is evaluated during training"
    if checkpoint.keep_best and not evaluation.every:
        yield (
            f"checkpoint.keep_best is {checkpoint.keep_best}, and nothing is evaluated: set evaluation.every "
            "as well"
        )
    if checkpoint.final_model == "best" and not checkpoint.keep_best:
        yield (
            "checkpoint.final_model is 'best', and no best checkpoint is kept: set checkpoint.keep_best to 1 "
            "or more"
        )
    if checkpoint.keep_best and checkpoint.best == "accuracy" and not answers_tasks:
        yield "checkpoint.best is 'accuracy': that needs tasks, and evaluation.tasks"
    for stage in stages:
        if stage.held_out:
            continue
        if checkpoint.keep_best and checkpoint.best == "loss":
            yield f"checkpoint.keep_best: stage {stage.name!r} has no held_out records to take the loss of"
        elif evaluation.every and not answers_tasks:
            yield (
                f"evaluation.every: stage {stage.name!r} has nothing to evaluate, neither held_out nor "
                "evaluation.tasks"
            )


def _find_process_misfits(config: DistributedConfig) -> Iterator[str]:
    count, number = config.process_count, config.process_id
    if count is not None and number is not None and number >= count:
        yield f"distributed.process_id: {number}, expected less than process_count ({count})"
    if not config.enabled:
        given = [f.name for f in dataclasses.fields(config)[1:] if getattr(config, f.name) is not None]
        if given:
            yield f"distributed.{given[0]}: set, and distributed.enabled is False"
