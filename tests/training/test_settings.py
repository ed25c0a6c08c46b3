"""Settings of a run: each impossible one is named, all at once, before anything is opened."""

import copy
import dataclasses
import math
import pathlib
import re
import types
import typing
from typing import Any

import pytest

from ola_jax.batch import Budget
from ola_jax.config import BeatsConfig, MediaLimits, OlaConfig, ProcessorConfig, Qwen2Config, WhisperConfig
from ola_jax.data import Source
from ola_jax.errors import OlaError
from ola_jax.training import check_config as checks
from ola_jax.training.check_config import check_config
from ola_jax.training.config import EvalTask, Stage, TrainConfig
from ola_jax.training.load_config import load_config
from ola_jax.training.optimizer import PartRate
from tests import tiny

STAGE = Stage(
    "tune",
    ("llm/",),
    (Source("a.json", weight=1.0), Source("b.json", weight=1.0)),
    steps=10,
    rows=4,
    budget=Budget(tokens=64, windows=1, window_patches=16),
    held_out=(Source("c.json"),),
)
CONFIG = TrainConfig(
    "runs/none", tiny.CONFIG, ProcessorConfig(), (STAGE,), tasks=(EvalTask("t", "T", "t.json", "."),)
)


def changed(config: Any, path: str, value: Any) -> Any:
    """The config with the field at `path` replaced."""
    name, _, rest = path.partition(".")
    if isinstance(config, tuple):
        items = list(config)
        items[int(name)] = changed(items[int(name)], rest, value) if rest else value
        return tuple(items)
    if rest:
        value = changed(getattr(config, name), rest, value)
    config = copy.copy(config)
    object.__setattr__(config, name, value)  # past the tests' own check of types, which a run does not have
    return config


def message(config: TrainConfig) -> str:
    with pytest.raises(OlaError) as caught:
        check_config(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG: list[tuple[str, Any, str]] = [
    ("output", "", "expected a folder"),
    ("output", "gs://bucket/run", "mount a bucket"),
    ("output", "s3://bucket", "mount a bucket"),
    ("seed", -1, "0 to 4294967295"),
    ("seed", 2**32, "0 to 4294967295"),
    ("seed", True, "a whole number"),
    ("seed", 1.5, "a whole number"),
    ("checkpoint.save_every", 0, "1 or more"),
    ("checkpoint.save_every", -3, "1 or more"),
    ("checkpoint.keep", 0, "1 or more"),
    ("checkpoint.keep_best", -1, "0 or more"),
    ("logging.log_every", 0, "1 or more"),
    ("bad_steps.max_skipped", -1, "0 or more"),
    ("data.max_skipped", -1, "0 or more"),
    ("bad_steps.spike_factor", 1.0, "more than 1"),
    ("bad_steps.spike_factor", math.nan, "a finite number"),
    ("evaluation.every", -1, "0 or more"),
    ("evaluation.batches", 0, "1 or more"),
    ("evaluation.rows", 0, "1 or more"),
    ("evaluation.limit", 0, "1 or more"),
    ("data.workers", -1, "0 or more"),
    ("data.prefetch", -1, "0 or more"),
    ("logging.profile", (0, 3), "1 or more"),
    ("logging.profile", (30, 40), "no stage has so many steps"),
    ("logging.wandb", "", "not empty"),
    ("tokenizer", "", "not empty"),
    ("init_from", "", "not empty"),
    ("bad_steps.action", "halt", "one of 'stop', 'skip'"),
    ("checkpoint.best", None, "one of 'loss', 'accuracy'"),
    ("stages", (), "expected at least one"),
    ("stages", (STAGE, STAGE), "2 are named 'tune'"),
    ("tasks", CONFIG.tasks * 2, "2 are named 't'"),
    ("tasks.0.chance", 1.5, "0 to 1"),
    ("tasks.0.records", "", "not empty"),
    ("mesh.fsdp", 0, "1 or more, or -1"),
    ("mesh.tensor", -2, "1 or more, or -1"),
    ("distributed.coordinator", "host", "HOST:PORT"),
    ("distributed.process_id", 0, "distributed.enabled is False"),
    ("stages.0.name", "", "a name that a folder can have"),
    ("stages.0.name", "..", "a name that a folder can have"),
    ("stages.0.name", "a/b", "a name that a folder can have"),
    ("stages.0.steps", -5, "1 or more"),
    ("stages.0.steps", 0, "1 or more"),
    ("stages.0.rows", 0, "1 or more"),
    ("stages.0.microbatches", 0, "1 or more"),
    ("stages.0.microbatches", 3, "stages.0.rows: 4, expected a multiple of microbatches (3)"),
    ("stages.0.trainable", (), "expected what is trained"),
    ("stages.0.trainable", ("(",), "a regular expression"),
    ("stages.0.trainable", "llm/", "a tuple"),
    ("stages.0.sources", (), "at least one file"),
    ("stages.0.sources.0.weight", 0.0, "more than 0"),
    ("stages.0.sources.0.weight", math.inf, "a finite number"),
    ("stages.0.sources.0.weight", None, "1 of 2 have a weight"),
    ("stages.0.sources.0.records", " ", "not empty"),
    ("stages.0.budget.tokens", 0, "1 or more"),
    ("stages.0.budget.windows", -1, "0 or more"),
    ("stages.0.budget.window_patches", 18, "a multiple of 4"),
    ("stages.0.budget.window_patches", 0, "windows of 0 patches"),
    ("stages.0.lora.rank", -3, "0 or more"),
    ("stages.0.lora.alpha", 0.0, "more than 0"),
    ("stages.0.lora.pattern", "[", "a regular expression"),
    ("stages.0.lora.dora", True, "lora.rank is 0"),
    ("stages.0.optimizer.learning_rate", -1e-5, "0 or more"),
    ("stages.0.optimizer.warmup_ratio", 5.0, "0 to 1"),
    ("stages.0.optimizer.floor_ratio", -0.1, "0 to 1"),
    ("stages.0.optimizer.b1", 1.0, "less than 1"),
    ("stages.0.optimizer.eps", 0.0, "more than 0"),
    ("stages.0.optimizer.weight_decay", -0.1, "0 or more"),
    ("stages.0.optimizer.clip_norm", 0.0, "more than 0"),
    ("stages.0.optimizer.muon_momentum", 2.0, "less than 1"),
    ("stages.0.optimizer.part_rates", (PartRate("(", 1.0),), "a regular expression"),
    ("stages.0.optimizer.part_rates", (PartRate("llm", -1.0),), "0 or more"),
    ("processor.max_length", 0, "1 or more"),
    ("processor.train.max_frames", 0, "1 or more"),
    ("processor.train.image_multiple", 48, "a multiple of 32 (two patches)"),
    ("processor.infer.video_min_side", 481, "at most video_max_side"),
    ("processor.media", MediaLimits(audio_seconds=-1.0), "more than 0"),
    ("processor.media", MediaLimits(audio_rates=(9, 8)), "the lower one first"),
    ("model.llm.num_layers", 0, "1 or more"),
    ("model.llm.rope_theta", math.nan, "a finite number"),
    ("model.llm", Qwen2Config(hidden_size=10, num_heads=4), "a multiple of num_heads (4)"),
    ("model.llm", Qwen2Config(num_heads=8, num_kv_heads=3), "a multiple of num_kv_heads (3)"),
    ("model.llm", Qwen2Config(hidden_size=12, num_heads=4, num_kv_heads=4), "an even number"),
    ("model.vision.num_heads", 5, "a multiple of num_heads (5)"),
    ("model.whisper", WhisperConfig(hidden_size=9, num_heads=2), "a multiple of num_heads"),
    ("model.beats_chunk", 0, "1 or more"),
    ("model.downsampling", "max", "one of 'local_global', 'mean', 'conv', 'none'"),
    ("model.beats", BeatsConfig(conv_groups=7), "a multiple of conv_groups (7)"),
    ("model.speech_stack", 10_000, "at most the frames"),
    ("model.dtype", "float64", "one of 'float32', 'bfloat16'"),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG, ids=[f"{p}={v!r}"[:60] for p, v, _ in WRONG])
def test_an_impossible_setting_is_named(path: str, value: Any, expected: str) -> None:
    said = message(changed(CONFIG, path, value))
    assert expected in said
    part = path.split(".")[-1]
    assert part in said or path.startswith(("logging.profile", "model"))


def test_what_is_right_passes() -> None:
    check_config(CONFIG)
    files = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
    assert files
    for file in files:
        check_config(load_config([f"--config={file}"]).config)
    check_config(
        changed(CONFIG, "stages.0.sources", ()), to_train=False
    )  # a step can be compiled without data
    check_config(changed(CONFIG, "stages.0.optimizer.learning_rate", 1))  # a whole number is a number
    check_config(changed(CONFIG, "mesh.fsdp", -1))


def test_several_are_named_in_one_message_those_that_depend_on_others_too() -> None:
    config = changed(
        changed(changed(CONFIG, "seed", -1), "stages.0.microbatches", 3), "checkpoint.keep_best", 1
    )
    said = message(config)
    for expected in ("seed: -1", "stages.0.rows: 4, expected a multiple", "keep_best is 1"):
        assert expected in said


def test_all_that_is_wrong_is_named_up_to_a_number_that_can_be_read() -> None:
    config = CONFIG
    names = [
        "seed",
        "checkpoint.save_every",
        "checkpoint.keep",
        "checkpoint.keep_best",
        "logging.log_every",
        "bad_steps.max_skipped",
        "data.max_skipped",
    ]
    names += ["evaluation.every", "evaluation.rows", "evaluation.batches"]
    for name in names:
        config = changed(config, name, -1)
    said = message(config)
    assert all(f"{name}: -1, expected" in said for name in names)

    many = dataclasses.replace(config, stages=config.stages * 20)
    for number in range(20):
        for name in ("rows", "steps"):
            many = changed(many, f"stages.{number}.{name}", -1)
    said = message(many)
    assert said.count(", expected ") == checks.SHOWN
    assert re.search(r"; and \d+ more$", said)
    assert len(message(changed(CONFIG, "output", ["x" * 500]))) < 120


def test_every_number_has_a_rule() -> None:
    """A field that is added later is either in the table or fails here."""

    def fields(cls: type) -> None:
        for name, kind in typing.get_type_hints(cls).items():
            for each in kind.__args__ if isinstance(kind, types.UnionType) else (kind,):
                if typing.get_origin(each) is tuple:
                    each = typing.get_args(each)[0]
                if dataclasses.is_dataclass(each):
                    fields(each)
                elif each in (int, float, str):
                    assert name in checks.RULES[cls], f"{cls.__name__}.{name}"

    fields(TrainConfig)


def test_the_model_without_a_part_passes() -> None:
    small = Qwen2Config(vocab_size=8, hidden_size=8, num_layers=1, num_heads=2, num_kv_heads=1)
    check_config(changed(CONFIG, "model", OlaConfig(small, None, None, None)))
    check_config(changed(CONFIG, "model.whisper", None))  # BEATs alone
    check_config(changed(CONFIG, "model.beats", None))


def test_pooling_kernels_are_those_of_local_global_pooling() -> None:
    pallas = changed(CONFIG, "model.pooling", "pallas")
    check_config(pallas)
    assert "there is no kernel for 'conv'" in message(changed(pallas, "model.downsampling", "conv"))
    check_config(changed(changed(pallas, "model.downsampling", "none"), "model.vision", None))
