"""What a training run is: model, data, and its stages. Files in configs/ build a TrainConfig."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.data.pipeline import Source
from ola_jax.errors import SettingsError
from ola_jax.sharding import MeshConfig
from ola_jax.training import settings
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.settings import ANY, COUNT, GIVEN, NATURAL, REGEX, SHARE, Rule, Rules, above, at_least


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of progressive alignment: what is trained, on which data, for how long."""

    name: str
    trainable: tuple[str, ...]  # regular expressions, matched from the start of parameter paths
    sources: tuple[Source, ...]
    steps: int
    rows: int  # rows of a batch, over all devices
    budget: Budget  # sizes of a row
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)  # adapters of frozen parameters
    microbatches: int = 1  # parts of a batch that go through the model one after the other
    held_out: tuple[Source, ...] = ()  # records whose loss is taken every `eval_every` steps


@dataclasses.dataclass(frozen=True)
class Task:
    """Held-out records on which answers are scored by exact match."""

    name: str
    title: str
    records: str  # path of the JSON file
    root: str  # folder of the media
    chance: float = 0.0  # accuracy that is possible without looking or listening


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes (hosts) that train together; on TPU pods `enabled` alone is enough."""

    enabled: bool = False
    coordinator: str | None = None  # HOST:PORT of process 0; None: as the cluster tells
    process_count: int | None = None
    process_id: int | None = None


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run, stage after stage, each starting from the checkpoint of the last."""

    output: str  # folder of checkpoints, metrics and reports
    model: OlaConfig
    processor: ProcessorConfig
    stages: tuple[Stage, ...]
    tasks: tuple[Task, ...] = ()  # evaluated after every stage
    tokenizer: str | None = None  # folder of the tokenizer; None: that of `init_from`
    generation: str | None = None  # generation_config.json; None: that of `init_from`
    example: str = '--text "Who are you?"'  # arguments of ola_jax.infer, suggested at the end
    init_from: str | None = None  # checkpoint, or a stage's checkpoints/[STEP]; None: random parameters
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)  # devices along each axis
    distributed: DistributedConfig = DistributedConfig()
    seed: int = 0
    save_every: int = 200  # steps
    keep: int = 2  # newest checkpoints of a stage
    keep_best: int = 0  # best checkpoints of a stage beside these; every evaluation then saves one
    best: Literal["loss", "accuracy"] = "loss"  # of the evaluations: what makes a checkpoint the best
    final_model: Literal["last", "best"] = "last"  # the checkpoint that a stage's model is taken from
    log_every: int = 10  # steps
    tensorboard: bool = False  # figures for TensorBoard as well, in a stage's folder
    wandb: str | None = None  # and for this project of Weights & Biases
    profile: tuple[int, int] | None = None  # first and last step of each stage that the profiler records
    bad_step: Literal["stop", "skip"] = "stop"  # on a loss or gradient that is not finite, or a spike
    max_bad_steps: int = 10  # of a stage that are skipped
    spike_factor: float | None = None  # a loss this many times its running mean is a bad step
    max_skipped: int = 0  # bad samples of a stage
    cache_samples: bool = False  # keep all processed samples in memory
    data_threads: int = 4  # that decode, in each process
    prefetch: int = 2  # batches prepared in advance
    eval_every: int = 0  # steps between evaluations during training; 0: none
    eval_batches: int = 8  # of the held-out records, as large as a stage's own
    eval_tasks: bool = False  # answer the tasks in these evaluations, too
    eval_rows: int = 50  # prompts answered at a time
    eval_limit: int | None = None  # held-out records of each task, but after the last stage


FOLDER = Rule(
    lambda name: bool(re.fullmatch(r"[^/\\\x00-\x1f]{1,100}", name)) and name.strip(" .") != "",
    "a name that can be a folder's",
)
LOCAL = Rule(
    lambda path: bool(path.strip()) and "\0" not in path and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path),
    "a folder (mount a bucket, for example with gcsfuse, and give the folder)",
)
ADDRESS = Rule(lambda text: bool(re.fullmatch(r"\S+:[0-9]+", text)), "HOST:PORT")

RULES: Rules = settings.RULES | {
    Stage: {"name": FOLDER, "trainable": REGEX, "steps": COUNT, "rows": COUNT, "microbatches": COUNT},
    Task: {"name": GIVEN, "title": ANY, "records": GIVEN, "root": ANY, "chance": SHARE},
    DistributedConfig: {"coordinator": ADDRESS, "process_count": COUNT, "process_id": NATURAL},
    TrainConfig: {
        "output": LOCAL,
        "tokenizer": GIVEN,
        "generation": GIVEN,
        "example": ANY,
        "init_from": GIVEN,
        "seed": at_least(0, 2**32 - 1),
        "save_every": COUNT,
        "keep": COUNT,
        "keep_best": NATURAL,
        "log_every": COUNT,
        "wandb": GIVEN,
        "profile": COUNT,
        "max_bad_steps": NATURAL,
        "spike_factor": above(1),
        "max_skipped": NATURAL,
        "data_threads": NATURAL,
        "prefetch": NATURAL,
        "eval_every": NATURAL,
        "eval_batches": COUNT,
        "eval_rows": COUNT,
        "eval_limit": COUNT,
    },
}
SHOWN = 30  # problems that one message names


def check(config: TrainConfig, to_train: bool = True) -> None:
    """Raises OlaError that names all settings that are impossible, or need others that are not there.

    Without `to_train` the step is only compiled: no data are needed.
    """
    broken = list(settings.broken(config, RULES))
    found = broken + list(_misfits(config, broken, to_train))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise SettingsError("; ".join(found[:SHOWN]) + more)


def _misfits(config: TrainConfig, broken: list[str], to_train: bool) -> Iterator[str]:
    """What settings need of each other; asked of those only that are possible each by itself."""
    paths = [problem.partition(":")[0] for problem in broken]

    def possible(*settings: str) -> bool:
        return not any(path == s or path.startswith(f"{s}.") for path in paths for s in settings)

    if possible("model"):
        yield from settings.of_model(config.model)
    if possible("model", "processor"):
        yield from settings.of_processor(config.processor, config.model)
    stages = () if "stages" in paths else config.stages
    for number, stage in enumerate(stages):
        if f"stages.{number}" not in paths:
            here = lambda *names, at=f"stages.{number}": possible(*[f"{at}.{name}" for name in names])
            yield from _of_stage(stage, f"stages.{number}", here, to_train)
    if "stages" not in paths and not stages:
        yield "stages: none, expected at least one"
    for kind in ("stages", "tasks"):
        if possible(kind):
            for name, count in collections.Counter(each.name for each in getattr(config, kind)).items():
                if count > 1:
                    yield f"{kind}: {count} are named {settings.short(name)}, expected names that differ"
    if possible("seed") and config.seed + len(stages) > 2**32:
        yield f"seed: {config.seed}, expected at most {2**32 - len(stages)}, for each stage adds 1"
    if possible("mesh"):
        sizes = [getattr(config.mesh, field.name) for field in dataclasses.fields(config.mesh)]
        if sizes.count(-1) > 1:
            yield "mesh: several axes are -1, expected one at most"
    if possible("tasks", "keep_best", "best", "final_model", "eval_tasks", "eval_every"):
        yield from _of_evaluation(config, [s for i, s in enumerate(stages) if possible(f"stages.{i}")])
    if possible("profile") and config.profile:
        first, last = config.profile
        steps = [stage.steps for number, stage in enumerate(stages) if possible(f"stages.{number}.steps")]
        if first > last:
            yield f"profile: steps {first} to {last}, expected 1 <= first <= last"
        elif first > max(steps, default=first):
            yield f"profile: begins at step {first}, and no stage has so many steps"
    if possible("distributed"):
        yield from _of_processes(config.distributed)


def _of_stage(stage: Stage, path: str, possible: Callable[..., bool], to_train: bool) -> Iterator[str]:
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


def _of_evaluation(config: TrainConfig, stages: Sequence[Stage]) -> Iterator[str]:
    if config.eval_tasks and not config.tasks:
        yield "eval_tasks: set, and there are no tasks"
    if config.eval_tasks and not config.eval_every:
        yield "eval_tasks: set, and eval_every is 0, so nothing is evaluated during training"
    if config.keep_best and not config.eval_every:
        yield f"keep_best is {config.keep_best}, and nothing is evaluated: set eval_every as well"
    if config.final_model == "best" and not config.keep_best:
        yield "final_model is 'best', and no best checkpoint is kept: set keep_best to 1 or more"
    if config.keep_best and config.best == "accuracy" and not (config.eval_tasks and config.tasks):
        yield "best is 'accuracy': that needs tasks, and eval_tasks"
    for stage in stages:
        if stage.held_out:
            continue
        if config.keep_best and config.best == "loss":
            yield f"keep_best: stage {stage.name!r} has no held_out records to take the loss of"
        elif config.eval_every and not (config.eval_tasks and config.tasks):
            yield f"eval_every: stage {stage.name!r} has nothing to evaluate, neither held_out nor eval_tasks"


def _of_processes(config: DistributedConfig) -> Iterator[str]:
    count, number = config.process_count, config.process_id
    if count is not None and number is not None and number >= count:
        yield f"distributed.process_id: {number}, expected less than process_count ({count})"
    if not config.enabled:
        given = [f.name for f in dataclasses.fields(config)[1:] if getattr(config, f.name) is not None]
        if given:
            yield f"distributed.{given[0]}: set, and distributed.enabled is False"
