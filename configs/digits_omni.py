"""The demo: a small Ola on handwritten digits and spoken words, all stages in minutes on two cores.

The stages are Ola's. What is pretrained in the real Ola is trained here from scratch on the way:
the decoder on text alone before the first stage, the vision encoder while its projector is
aligned, the audio encoders while theirs is.
"""

import dataclasses
import json
import pathlib

import rich.console

from examples.digits_omni.build import build
from examples.digits_omni.tasks import TASKS
from examples.digits_omni.tokenizer_training import (
    generation_config,
    save_tokenizer,
    train_tokenizer,
    training_texts,
)
from ola_jax.batch import Budget
from ola_jax.config import (
    BeatsConfig,
    OlaConfig,
    OryxViTConfig,
    PixelLimits,
    ProcessorConfig,
    Qwen2Config,
    WhisperConfig,
)
from ola_jax.data import Source
from ola_jax.training.config import DataConfig, EvalTask, EvaluationConfig, Stage, TrainConfig
from ola_jax.training.optimizer import OptimizerConfig

VOCAB_SIZE = 512

MODEL = OlaConfig(
    llm=Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=256,
        rope_theta=10_000.0,
    ),
    vision=OryxViTConfig(hidden_size=96, num_layers=3, num_heads=4, intermediate_size=288, position_grid=8),
    whisper=WhisperConfig(num_mels=80, num_positions=100, hidden_size=64, num_layers=2, num_heads=4),
    beats=BeatsConfig(
        embed_dim=32,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        intermediate_size=128,
        conv_positions=32,
        conv_groups=8,
        predictor_classes=0,
    ),
    speech_hidden_size=256,
    remat="dots",  # less memory traffic: faster than keeping everything, on CPUs too
)
LIMITS = PixelLimits(
    low_res_side=32, high_res_max_side=48, video_min_side=32, video_max_side=32, max_frames=8
)
PROCESSOR = ProcessorConfig(train=LIMITS, infer=LIMITS, max_length=512, system_prompt="")


def optimizer(rate: float) -> OptimizerConfig:
    """Small models from scratch want higher rates than the recipe's; Muon needs half of AdamW's steps."""
    return OptimizerConfig(kind="muon", learning_rate=rate, weight_decay=0.3, b2=0.98)


def get_config(output: str = "runs/digits_omni") -> TrainConfig:
    """All stages; dataset, checkpoints and report go to the folder `output`."""
    data = f"{output}/data"

    def sources(**weights: float) -> tuple[Source, ...]:
        return tuple(
            Source(f"{data}/train/{name}.json", data, float(weight)) for name, weight in weights.items()
        )

    text = Budget(tokens=256)
    images = Budget(tokens=256, windows=3, window_patches=32)
    videos = Budget(tokens=256, windows=5, window_patches=32)
    audio = Budget(tokens=256, audio_chunks=6)
    everything = Budget(tokens=256, windows=4, window_patches=32, audio_chunks=4)
    stages = (
        Stage(
            "text",  # stands in for the pretraining of Qwen2.5
            trainable=("llm/",),
            sources=sources(text=1, described=2),
            steps=450,
            rows=4,
            budget=text,
            optimizer=optimizer(5e-3),
        ),
        Stage(
            "image_align",  # and for that of OryxViT
            trainable=("vision_projector/", "vision/"),
            sources=sources(captions=1),
            steps=800,
            rows=4,
            budget=images,
            optimizer=optimizer(4e-3),
        ),
        Stage(
            "image_tune",
            trainable=("llm/", "vision_projector/", "vision/"),
            sources=sources(image=3, two_images=3, captions=2, text=1, described=1),
            steps=200,
            rows=6,
            budget=images,
            optimizer=optimizer(3e-3),
        ),
        Stage(
            "video",
            trainable=("llm/", "vision_projector/"),
            sources=sources(video=3, image=1, two_images=2, text=1, described=1),
            steps=120,
            rows=6,
            budget=videos,
            optimizer=optimizer(3e-3),
        ),
        Stage(
            "speech_align",  # and for that of Whisper and BEATs
            trainable=("speech_projector/", "whisper/", "beats/"),
            sources=sources(transcripts=1),
            steps=480,
            rows=4,
            budget=audio,
            optimizer=optimizer(5e-3),
        ),
        Stage(
            "omni",
            trainable=("llm/", "vision_projector/", "speech_projector/"),
            sources=sources(
                image=1, two_images=1, video=1, audio=2, image_speech=3, video_audio=4, text=1, described=1
            ),
            steps=420,
            rows=6,
            budget=everything,
            optimizer=optimizer(3e-3),
        ),
    )
    tasks = tuple(EvalTask(task.name, task.title, f"{data}/heldout/{task.name}.json", data) for task in TASKS)
    return TrainConfig(
        output=output,
        model=MODEL,
        processor=PROCESSOR,
        stages=stages,
        tasks=tasks,
        tokenizer=f"{output}/tokenizer",
        generation=f"{output}/generation_config.json",
        example=f'--image {data}/heldout/images/00000.png --text "Which digit is it?"',
        data=DataConfig(cache_samples=True),
        evaluation=EvaluationConfig(limit=50),
    )


def prepare(config: TrainConfig, scale: float = 1.0) -> TrainConfig:
    """Build the dataset and its tokenizer where they are missing; fill in the tasks' chance levels.

    `scale` multiplies the number of records.
    """
    data = pathlib.Path(config.tasks[0].root)
    if not data.exists():
        rich.console.Console().print("digits_omni: building the dataset (once)")
    build(data, scale=scale)
    if not (pathlib.Path(config.tokenizer) / "tokenizer.json").exists():
        tokenizer = train_tokenizer(training_texts(data), VOCAB_SIZE)
        save_tokenizer(tokenizer, pathlib.Path(config.tokenizer))
        pathlib.Path(config.generation).write_text(json.dumps(generation_config(tokenizer), indent=1) + "\n")
    heldout = json.loads((data / "manifest.json").read_text())["splits"]["heldout"]
    tasks = tuple(dataclasses.replace(task, chance=heldout[task.name]["chance"]) for task in config.tasks)
    return dataclasses.replace(config, tasks=tasks)
