"""A run of seconds: a model of text and audio and its records, made in the folder of the run.

A config file as well: `train.py --config=tests/training/tiny_run.py:FOLDER`.
"""

import dataclasses
import json
import pathlib

import numpy as np
import soundfile

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, ProcessorConfig, Qwen2Config, WhisperConfig
from ola_jax.data import Source
from ola_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    EvalTask,
    LoggingConfig,
    Stage,
    TrainConfig,
)
from ola_jax.training.optimizer import OptimizerConfig, PartRate
from tests.golden import VISIBLE

MODEL = OlaConfig(
    llm=Qwen2Config(
        vocab_size=728, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=64
    ),
    vision=None,
    beats=None,
    whisper=WhisperConfig(num_mels=80, num_positions=20, hidden_size=16, num_layers=1, num_heads=2),
    speech_hidden_size=32,
)
BUDGET = Budget(tokens=64, audio_chunks=2)
LOUD = 11  # the record that can be poisoned


def write_records(folder: pathlib.Path, name: str, count: int) -> str:
    """A file of short records; every third has audio."""
    rng = np.random.default_rng(len(name))
    records = []
    for i in range(count):
        question, answer = f"Number {i}?", "yes " * (i % 5 + 1)
        record = {"id": f"{name}{i}"}
        if i % 3 == 2:
            file = f"{name}{i}.wav"
            samples = rng.normal(size=3000).astype(np.float32) * 0.1
            soundfile.write(folder / file, samples, 16000, subtype="FLOAT")
            record["audio"] = file
            question = f"<speech>\n{question}"
        record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append(record)
    (folder / f"{name}.json").write_text(json.dumps(records))
    return str(folder / f"{name}.json")


def poison(folder: pathlib.Path) -> None:
    """Make an audio file so loud that its spectrum overflows: the loss of its batch is not finite."""
    loud = np.full(3000, 1e30, np.float32)
    soundfile.write(folder / f"train{LOUD}.wav", loud, 16000, subtype="FLOAT")


def get_config(output: str) -> TrainConfig:
    """One stage of ten steps."""
    folder = pathlib.Path(output)
    if not (folder / "train.json").exists():
        folder.mkdir(exist_ok=True)
        for name, count in (("train", 24), ("heldout", 10), ("questions", 4)):
            write_records(folder, name, count)
        (folder / "generation_config.json").write_text('{"temperature": 0.0, "eos_token_id": [0]}')
    rates = (PartRate("llm/norm", 2e-3), PartRate("llm/", 1e-3))
    stage = Stage(
        name="tune",
        trainable=("llm/", "speech_projector/"),
        sources=(Source(str(folder / "train.json"), output),),
        held_out=(Source(str(folder / "heldout.json"), output),),
        steps=10,
        rows=2,
        budget=BUDGET,
        optimizer=OptimizerConfig(learning_rate=3e-3, part_rates=rates, warmup_ratio=0.2),
    )
    return TrainConfig(
        output,
        MODEL,
        ProcessorConfig(system_prompt=""),
        stages=(stage,),
        tokenizer=str(VISIBLE / "hf"),
        generation=str(folder / "generation_config.json"),
        checkpoint=CheckpointConfig(save_every=4),
        logging=LoggingConfig(log_every=2),
        data=DataConfig(workers=1),  # to start more takes longer than all that they do here
    )


def with_tasks(config: TrainConfig) -> TrainConfig:
    """The same, with questions about the training's own kind of records."""
    task = EvalTask("numbers", "numbers", f"{config.output}/questions.json", config.output)
    return dataclasses.replace(
        config, tasks=(task,), evaluation=dataclasses.replace(config.evaluation, rows=2)
    )
