"""What a training run is: model, data, and its stages. Files in configs/ build a TrainConfig."""

import dataclasses

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.data.pipeline import Source
from ola_jax.sharding import MeshConfig
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig


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
    init_from: str | None = None  # ola_jax checkpoint to start from; None: random parameters
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)  # devices along each axis
    distributed: DistributedConfig = DistributedConfig()
    seed: int = 0
    save_every: int = 200  # steps
    keep: int = 2  # newest checkpoints of a stage
    log_every: int = 10  # steps
    max_skipped: int = 0  # bad samples of a stage
    cache_samples: bool = False  # keep all processed samples in memory
    eval_rows: int = 50  # prompts answered at a time
    eval_limit: int | None = None  # held-out records of each task after stages but the last
