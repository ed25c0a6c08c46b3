"""The training run of an arm and a seed: the demo's model and data, smaller stages, equal steps in every arm.

Nothing is pretrained here, so each run begins with text alone, which stands in for the pretraining of the
decoder, and trains the encoders where their modality comes first.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from configs import digits_omni as demo
from examples.ablations.arms import Arm
from ola_jax.batch import Budget
from ola_jax.config import HOP, OlaConfig
from ola_jax.data import Source
from ola_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    EvalTask,
    Stage,
    TrainConfig,
)

SCALE = 0.5  # of the demo's number of records
TASKS = ("text", "image", "video", "audio", "video_audio")
QUESTIONS = 100  # of each task, at most
ROWS = 4  # of a batch


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stage of an arm, without what is the same in all."""

    name: str
    steps: int
    shares: Mapping[str, float]  # of the sources
    parts: tuple[str, ...]  # that are trained
    learning_rate: float
    tokens: int = 256  # of a row
    # Without downsampling the same records take more: in this proportion, so that a step still trains on
    # about as many of them.
    tokens_without_downsampling: int = 256


LLM, PROJECTORS = ("llm/",), ("vision_projector/", "speech_projector/")
VISION, AUDIO = ("vision/",), ("whisper/", "beats/")
TEXT = Phase("text", 200, {"text": 1, "described": 2}, LLM, 5e-3)
IMAGE = Phase(
    "image",
    400,
    {"captions": 2, "image": 3, "text": 1, "described": 1},
    (*LLM, *PROJECTORS[:1], *VISION),
    4e-3,
    tokens_without_downsampling=312,
)
VIDEO = Phase(
    "video",
    80,
    {"video": 4, "image": 2, "text": 1, "described": 1},
    (*LLM, *PROJECTORS[:1]),
    3e-3,
    tokens_without_downsampling=376,
)
OMNI = Phase(
    "omni",
    400,
    {"video_audio": 4, "transcripts": 3, "audio": 3, "video": 2, "image": 2, "text": 1, "described": 1},
    (*LLM, *PROJECTORS, *AUDIO),
    4e-3,
    tokens_without_downsampling=336,
)
# The sources of each modality, which balanced sampling gives equal shares.
MODALITIES = (
    ("text", "described"),
    ("captions", "image"),
    ("video",),
    ("transcripts", "audio"),
    ("video_audio",),
)


def get_config(arm: Arm, seed: int, data: pathlib.Path, output: pathlib.Path) -> TrainConfig:
    """The run of an arm in the folder `output`, on the dataset that `demo.prepare` built in `data`."""
    config = demo.get_config(str(data))
    return dataclasses.replace(
        config,
        output=str(output),
        model=make_model(arm),
        stages=make_stages(arm, data / "data"),
        tasks=(),  # they are scored once, after the last stage
        checkpoint=CheckpointConfig(save_every=100, keep=1),
        data=DataConfig(cache_samples=True, workers=1),
        seed=seed,
    )


def make_tasks(data: pathlib.Path) -> tuple[EvalTask, ...]:
    """The tasks that every arm is scored on."""
    tasks = {task.name: task for task in demo.get_config(str(data)).tasks}
    return tuple(tasks[name] for name in TASKS)


def make_model(arm: Arm) -> OlaConfig:
    """The demo's model with the arm's pooling and audio encoders."""
    model = demo.MODEL
    return dataclasses.replace(
        model,
        downsampling=arm.downsampling,
        whisper=None if arm.audio_encoders == "beats" else model.whisper,
        beats=None if arm.audio_encoders == "whisper" else model.beats,
        beats_chunk=model.chunk_samples // HOP,
    )


def make_stages(arm: Arm, data: pathlib.Path) -> tuple[Stage, ...]:
    """Text, then the arm's phases: as many steps and rows in every arm."""
    return tuple(_make_stage(phase, arm, str(data)) for phase in (TEXT, *choose_phases(arm)))


def choose_phases(arm: Arm) -> tuple[Phase, ...]:
    """The phases of an arm after the one of text."""
    omni = OMNI if arm.video_audio else dataclasses.replace(OMNI, shares=_without_video_audio(OMNI.shares))
    phases = IMAGE, VIDEO, omni
    if arm.mixing == "progressive":
        return phases
    shares = sum_of_phases(phases) if arm.mixing == "direct" else balanced_shares()
    steps = sum(phase.steps for phase in phases)
    return (Phase("mixed", steps, shares, (*LLM, *PROJECTORS, *VISION, *AUDIO), 4e-3),)


def sum_of_phases(phases: Sequence[Phase]) -> dict[str, float]:
    """The share of each source in all that these phases train on."""
    total: collections.Counter[str] = collections.Counter()
    for phase in phases:
        for source, share in phase.shares.items():
            total[source] += phase.steps * share / sum(phase.shares.values())
    return {source: round(amount, 2) for source, amount in total.items()}


def balanced_shares() -> dict[str, float]:
    """Equal shares for all modalities, and within each for its sources."""
    return {source: 1 / len(sources) for sources in MODALITIES for source in sources}


def _make_stage(phase: Phase, arm: Arm, data: str) -> Stage:
    whole = arm.downsampling == "none"
    is_text, has_audio = phase is TEXT, AUDIO[0] in phase.parts
    without = {"both": "", "whisper": "beats/", "beats": "whisper/"}[arm.audio_encoders]
    return Stage(
        phase.name,
        trainable=tuple(part for part in phase.parts if part != without),
        sources=tuple(
            Source(f"{data}/train/{source}.json", data, float(share))
            for source, share in phase.shares.items()
        ),
        steps=phase.steps,
        rows=ROWS,
        budget=Budget(
            phase.tokens_without_downsampling if whole else phase.tokens,
            windows=0 if is_text else 4,
            window_patches=0 if is_text else 32,
            audio_chunks=4 if has_audio else 0,
        ),
        optimizer=demo.optimizer(phase.learning_rate),
    )


def _without_video_audio(shares: Mapping[str, float]) -> dict[str, float]:
    """The same, with as much more video and audio instead of video with audio."""
    more = shares["video_audio"] / 2
    found = {source: float(share) for source, share in shares.items() if source != "video_audio"}
    return found | {"video": found["video"] + more, "audio": found["audio"] + more}
