"""The config of a training run: model, data, stages. Files in configs/ build a TrainConfig."""

import dataclasses
from typing import Literal

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.data.sources import Source
from ola_jax.sharding import MeshConfig
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of progressive alignment: trained parameters, data, duration."""

    name: str
    trainable: tuple[str, ...]  # regular expressions, matched from the start of parameter paths
    sources: tuple[Source, ...]
    steps: int
    rows: int  # rows of a batch, over all devices
    budget: Budget  # sizes of a row
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)  # adapters of frozen parameters
    microbatches: int = 1  # parts of a batch that are computed one after the other
    held_out: tuple[Source, ...] = ()  # records whose loss is taken in evaluations during training


@dataclasses.dataclass(frozen=True)
class EvalTask:
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
    coordinator: str | None = None  # HOST:PORT of process 0; None: found from the cluster's environment
    process_count: int | None = None
    process_id: int | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of a stage: when they are saved, which are kept."""

    save_every: int = 200  # steps
    keep: int = 2  # newest checkpoints of a stage
    keep_best: int = 0  # best checkpoints of a stage in addition; every evaluation then saves one
    best: Literal["loss", "accuracy"] = "loss"  # of the evaluations: what makes a checkpoint the best
    final_model: Literal["last", "best"] = "last"  # the checkpoint that a stage's model is taken from


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    """Outputs of figures and profiles, beside `metrics.jsonl`."""

    log_every: int = 10  # steps
    tensorboard: bool = False  # figures for TensorBoard as well, in a stage's folder
    wandb: str | None = None  # and for this project of Weights & Biases
    profile: tuple[int, int] | None = None  # first and last step of each stage that the profiler records


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during training; tasks are also answered after every stage."""

    every: int = 0  # steps between evaluations during training; 0: none
    batches: int = 8  # of the held-out records, as large as a stage's own
    tasks: bool = False  # also answer the tasks in these evaluations
    rows: int = 50  # prompts answered at a time
    limit: int | None = None  # held-out records of each task, except after the last stage


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Reading of records."""

    max_skipped: int = 0  # bad records of a stage
    max_bad_fraction: float = 0.0  # of a stage's records; what may be skipped if it is more than max_skipped
    cache_samples: bool = False  # keep all processed samples in memory
    workers: int = 4  # processes that decode, for each process of the run; 0: it decodes itself
    prefetch: int = 2  # batches prepared in advance
    read_ahead_bytes: int = 4 * 2**30  # memory for rows and batches prepared in advance, in each process


@dataclasses.dataclass(frozen=True)
class BadStepsConfig:
    """Steps whose loss or gradient is not finite, or whose loss is a spike: their update is skipped."""

    action: Literal["stop", "skip"] = "stop"  # save and end the run, or continue with the next step
    max_skipped: int = 10  # bad steps of a stage
    spike_factor: float | None = None  # a loss this many times its running mean is a bad step


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A complete run, stage after stage, each starting from the model of the previous one."""

    output: str  # folder of checkpoints, metrics and reports
    model: OlaConfig
    processor: ProcessorConfig
    stages: tuple[Stage, ...]
    tasks: tuple[EvalTask, ...] = ()  # evaluated after every stage
    tokenizer: str | None = None  # folder of the tokenizer; None: that of `init_from`
    generation: str | None = None  # generation_config.json; None: that of `init_from`
    example: str = '--text "Who are you?"'  # arguments of ola_jax.infer, suggested at the end
    init_from: str | None = None  # checkpoint, or a stage's checkpoints/[STEP]; None: random parameters
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)  # devices along each axis
    distributed: DistributedConfig = DistributedConfig()
    seed: int = 0
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    data: DataConfig = DataConfig()
    bad_steps: BadStepsConfig = BadStepsConfig()
