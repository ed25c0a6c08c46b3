"""Ola-7B: every stage of the recipe of arXiv 2502.04328, for TPU pods and GPU clusters.

`--config=configs/ola_7b.py` is the whole run; `--config=configs/ola_7b.py:omni` is one stage, which starts
from `init_from`; `configs/ola_7b.py:omni:v5e:16x16` (or `::v5e:16x16` for the whole run) has the settings for
these devices, of TOPOLOGIES below. Without them it is as the scripts have it: 64 rows, FSDP over all devices,
"full" recomputation. Paths are examples: records are in the original's format, prepared by the user.

Where each value comes from: (S) the original's released scripts (scripts/finetune_ola*.sh) and code, (P) the
paper, (A) its authors' answers to users on GitHub, (U) commonly reported, not confirmed: check before use.
`steps` is one pass over the data (S: one epoch) as if each of the 64 rows held one sample; packing puts more
into a row, so set it by how well your own data fill their rows.
"""

import dataclasses

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, ProcessorConfig, Remat
from ola_jax.data import Source
from ola_jax.errors import OlaError
from ola_jax.sharding import MeshConfig
from ola_jax.training.config import CheckpointConfig, DataConfig, Stage, TrainConfig
from ola_jax.training.optimizer import OptimizerConfig

MODEL = dataclasses.replace(
    OlaConfig.ola_7b(), dtype="bfloat16", remat="full"
)  # S: bf16, gradient checkpointing
PROCESSOR = ProcessorConfig(max_length=16_384)  # S; so are its defaults: pixel limits, 48 frames of a video

PROJECTOR = ("vision_projector/",)  # P: MLP alignment trains nothing else
SPEECH_PROJECTOR = ("speech_projector/",)  # A: before audio joins, its projector alone
TUNE = ("llm/", "vision_projector/", "speech_projector/")  # S: encoders are frozen

# Sizes of one row. S: a sample has at most 16384 tokens. An image of 1536x1536 pixels has 9216 patches, which
# one window must hold; 48 frames of 448x448 have 37632.
TEXT_IMAGE = Budget(tokens=16_384, windows=4, window_patches=9216)
ALIGN = Budget(tokens=8192, windows=2, window_patches=9216)
VIDEO = Budget(tokens=16_384, windows=6, window_patches=9216)
SPEECH = Budget(tokens=8192, audio_chunks=24)
OMNI = Budget(tokens=16_384, windows=6, window_patches=9216, audio_chunks=26)  # S: 25 chunks at most


@dataclasses.dataclass(frozen=True)
class Devices:
    """How devices share the work. Rows other than the scripts' 64 may need another learning rate."""

    mesh: MeshConfig
    rows: int  # of a batch: a multiple of data * fsdp
    remat: Remat


# Of those that were tried, the fastest that fit by the compiler's account (docs/performance.md). Weights are
# split at most 32 ways: over 64 the shares of Qwen2.5's are no whole tiles, and XLA takes all-reduces for
# all-gathers. context=2 gives a device half a row, for the memory's sake.
TOPOLOGIES = {
    "v5e:16x16": Devices(MeshConfig(data=8, fsdp=16, context=2), rows=128, remat="projections"),
    "v5p:4x4x4": Devices(MeshConfig(data=2, fsdp=32), rows=64, remat="dots"),
    "v6e:16x16": Devices(MeshConfig(data=4, fsdp=32, context=2), rows=128, remat="gate"),
    "tpu7x:2x2x1": Devices(MeshConfig(fsdp=8), rows=8, remat="dots"),
}


def optimizer(learning_rate: float) -> OptimizerConfig:
    """The scripts' AdamW (S): no decay, clipping at 1, warm-up 0.05, cosine down to 0.01."""
    return OptimizerConfig(learning_rate=learning_rate)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "image_align",
            trainable=PROJECTOR,  # P
            sources=(Source("data/align_80k.json", root="data"),),  # P: 80K pairs
            steps=1250,
            rows=64,
            budget=ALIGN,
            optimizer=optimizer(1e-3),  # P: high; the value is U
        ),
        Stage(
            "image_pretrain",
            trainable=TUNE[:2],  # U
            sources=(Source("data/pretrain_20m.json", root="data"),),  # P: 20M pairs
            steps=312_500,
            rows=64,
            budget=TEXT_IMAGE,
            optimizer=optimizer(2e-5),  # U
        ),
        Stage(
            "image_tune",
            trainable=TUNE[:2],  # S
            sources=(Source("data/sft_7m.json", root="data"),),  # P: 7.3M
            steps=114_000,
            rows=64,
            budget=TEXT_IMAGE,
            optimizer=optimizer(1e-5),  # S
        ),
        Stage(
            "video",
            trainable=TUNE[:2],  # P, S: the vision encoder stays frozen
            sources=(
                Source("data/video_1m9.json", root="data", weight=1.0),  # P: 1.9M samples
                Source("data/sft_7m.json", root="data", weight=1.0),  # P: with images; the shares are U
            ),
            steps=60_000,
            rows=64,
            budget=VIDEO,
            optimizer=optimizer(1e-5),  # S
        ),
        Stage(
            "speech_align",
            trainable=SPEECH_PROJECTOR,  # A
            sources=(
                Source("data/audio_1m17.json", root="data"),
            ),  # P: the audio data; which part of it is U
            steps=18_300,
            rows=64,
            budget=SPEECH,
            optimizer=optimizer(1e-3),  # U
        ),
        Stage(
            "omni",
            trainable=TUNE,  # S
            sources=(  # P: sizes; the shares follow them but for the last two, which are U
                Source("data/audio_1m17.json", root="data", weight=1.17),
                Source("data/video_audio_298k.json", root="data", weight=0.298),
                Source("data/sft_7m.json", root="data", weight=0.5),
                Source("data/video_1m9.json", root="data", weight=0.5),
            ),
            steps=38_600,
            rows=64,
            budget=OMNI,
            optimizer=optimizer(1e-5),  # S
        ),
    )
}


def get_config(chosen: str = "") -> TrainConfig:
    """The whole run, or one of its stages by name; after a colon, for one of TOPOLOGIES."""
    stage, _, topology = chosen.partition(":")
    if stage and stage not in STAGES:
        raise OlaError(f"configs/ola_7b.py: no stage {stage!r}; there are {', '.join(STAGES)}")
    if topology and topology not in TOPOLOGIES:
        raise OlaError(
            f"configs/ola_7b.py: no settings for {topology!r}; there are {', '.join(TOPOLOGIES)}; for others "
            "find them with --search and set mesh, rows and model.remat"
        )
    config = TrainConfig(
        output="runs/ola_7b",
        model=MODEL,
        processor=PROCESSOR,
        stages=(STAGES[stage],) if stage else tuple(STAGES.values()),
        init_from="checkpoints/ola_7b_start",  # Qwen2.5, OryxViT, Whisper and BEATs, from convert_weights.py
        mesh=MeshConfig(fsdp=-1),
        checkpoint=CheckpointConfig(save_every=1000),
        data=DataConfig(max_skipped=10_000),
    )
    return for_devices(config, TOPOLOGIES[topology]) if topology else config


def for_devices(config: TrainConfig, devices: Devices) -> TrainConfig:
    """The config with the settings of `devices`, and as many steps as see the same rows."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat=devices.remat),
        mesh=devices.mesh,
        stages=tuple(
            dataclasses.replace(stage, rows=devices.rows, steps=stage.steps * stage.rows // devices.rows)
            for stage in config.stages
        ),
    )
