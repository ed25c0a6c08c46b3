"""The training run of an arm and a seed: the demo's model and data, smaller stages, equal steps in every arm.

Nothing is pretrained here, so each run begins with text alone, which stands in for the pretraining of the
decoder, and trains the encoders where their modality comes first.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping

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

SCALE = 0.25  # of the demo's number of records
TASKS = ("text", "image", "video", "audio", "video_audio")
QUESTIONS = 100  # of each task, at most
ROWS = 4  # of a batch
TEXT_STEPS, IMAGE_STEPS, VIDEO_STEPS, OMNI_STEPS = 200, 400, 80, 400

# Shares of the sources in each stage after text.
IMAGE = {"captions": 2, "image": 3, "text": 1, "described": 1}
VIDEO = {"video": 4, "image": 2, "text": 1, "described": 1}
OMNI = {"video_audio": 4, "transcripts": 3, "audio": 3, "video": 2, "image": 2, "text": 1, "described": 1}
# The sources of each modality, which balanced sampling gives equal shares.
MODALITIES = (
    ("text", "described"),
    ("captions", "image"),
    ("video",),
    ("transcripts", "audio"),
    ("video_audio",),
)
PARTS = ("llm/", "vision_projector/", "speech_projector/", "vision/", "whisper/", "beats/")


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
    """Text, then the arm's stages: as many steps and rows in every arm."""
    longer = arm.downsampling == "none"  # the same records take more tokens: about as many fit a row
    images = Budget(tokens=384 if longer else 256, windows=4, window_patches=32)
    everything = dataclasses.replace(images, tokens=448 if longer else 256, audio_chunks=4)

    def stage(
        name: str, steps: int, shares: Mapping[str, float], rate: float, *, budget: Budget, trained: str
    ) -> Stage:
        root = str(data)
        sources = (
            Source(f"{root}/train/{source}.json", root, float(share)) for source, share in shares.items()
        )
        return Stage(
            name,
            trainable=tuple(
                part for part in PARTS if part.split("/")[0] in trained.split() and _has(arm, part)
            ),
            sources=tuple(sources),
            steps=steps,
            rows=ROWS,
            budget=budget,
            optimizer=demo.optimizer(rate),
        )

    omni = OMNI if arm.video_audio else _without_video_audio(OMNI)
    text = stage("text", TEXT_STEPS, {"text": 1.0, "described": 2.0}, 5e-3, budget=Budget(256), trained="llm")
    all_parts = "llm vision_projector speech_projector vision whisper beats"
    if arm.mixing == "progressive":
        return (
            text,
            stage("image", IMAGE_STEPS, IMAGE, 4e-3, budget=images, trained="llm vision_projector vision"),
            stage("video", VIDEO_STEPS, VIDEO, 3e-3, budget=images, trained="llm vision_projector"),
            stage(
                "omni",
                OMNI_STEPS,
                omni,
                4e-3,
                budget=everything,
                trained="llm vision_projector speech_projector whisper beats",
            ),
        )
    shares = sum_of_stages(omni) if arm.mixing == "direct" else balanced_shares()
    steps = IMAGE_STEPS + VIDEO_STEPS + OMNI_STEPS
    return text, stage("mixed", steps, shares, 4e-3, budget=everything, trained=all_parts)


def sum_of_stages(omni: Mapping[str, float]) -> dict[str, float]:
    """The share of each source in all that the progressive stages train on."""
    total: collections.Counter[str] = collections.Counter()
    for steps, shares in ((IMAGE_STEPS, IMAGE), (VIDEO_STEPS, VIDEO), (OMNI_STEPS, omni)):
        for source, share in shares.items():
            total[source] += steps * share / sum(shares.values())
    return {source: round(amount, 2) for source, amount in total.items()}


def balanced_shares() -> dict[str, float]:
    """Equal shares for all modalities, and within each for its sources."""
    return {source: 60 / len(sources) for sources in MODALITIES for source in sources}


def _without_video_audio(shares: Mapping[str, float]) -> dict[str, float]:
    """The same, with as much more video and audio instead of video with audio."""
    more = shares["video_audio"] / 2
    found = {source: float(share) for source, share in shares.items() if source != "video_audio"}
    return found | {"video": found["video"] + more, "audio": found["audio"] + more}


def _has(arm: Arm, part: str) -> bool:
    return (
        arm.audio_encoders == "both" or part != {"whisper": "beats/", "beats": "whisper/"}[arm.audio_encoders]
    )
