"""The start of a run: `init_from` against the config."""

import dataclasses
import pathlib
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest

from ola_jax import checkpoint, sharding
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import stage_settings
from ola_jax.training.changes import Changes
from ola_jax.training.config import TrainConfig
from ola_jax.training.start import check_stages, check_start, make_stage_folder, stage_folder, start_params
from tests.golden import VISIBLE
from tests.training import tiny_run
from tests.training.test_settings import changed


@pytest.fixture
def config(tmp_path: pathlib.Path) -> TrainConfig:
    """A run that starts from a model."""
    config = tiny_run.get_config(str(tmp_path / "run"))
    source = tmp_path / "model"
    rng = np.random.default_rng(0)
    make = lambda x: rng.normal(size=x.shape).astype(x.dtype)
    params = jax.tree.map(make, nn.unbox(abstract_params(config.model)))
    checkpoint.save(
        source,
        config=config.model,
        processor_config=config.processor,
        params=params,
        tokenizer_dir=VISIBLE / "hf",
        generation_config={},
    )
    return dataclasses.replace(config, init_from=str(source))


def start(config: TrainConfig) -> dict:
    mesh = sharding.make_mesh(MeshConfig())
    places = sharding.parameter_shardings(abstract_params(config.model), mesh)
    return start_params(config, 0, places)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pooling", "pallas"), ("attention", "xla"), ("dtype", "bfloat16"), ("remat", "full")],
)
def test_how_a_model_is_computed_may_differ(config: TrainConfig, name: str, value: str) -> None:
    other = changed(config, f"model.{name}", value)
    said: list[str] = []
    check_start(other, said.append)
    assert said == []
    jax.tree.map(np.testing.assert_array_equal, start(other), start(config))


def test_another_model_is_refused_with_the_settings_that_differ(config: TrainConfig) -> None:
    other = changed(changed(config, "model.llm.rope_theta", 1e4), "model.speech_stack", 5)
    expected = (
        r"model differs from the config's in llm\.rope_theta \(1000000\.0 there, 10000\.0 here\), "
        r"speech_stack \(10 there, 5 here\); they must be the same"
    )
    for check in (start, lambda config: check_start(config, print)):
        with pytest.raises(OlaError, match=expected):
            check(other)
    with pytest.raises(
        OlaError, match=r"whisper \(some there, None here\)|whisper \(some there, none here\)"
    ):
        check_start(changed(config, "model.whisper", None), print)


def test_another_processor_is_reported(config: TrainConfig) -> None:
    said: list[str] = []
    check_start(changed(config, "processor.max_length", 99), said.append)
    (line,) = said
    assert line.startswith("processor.max_length: 16384 in ")
    assert line.endswith("99 in this run")


def test_another_tokenizer_is_reported_and_one_of_another_size_refused(
    config: TrainConfig, tmp_path: pathlib.Path
) -> None:
    said: list[str] = []
    folder = tmp_path / "tokenizer"
    shutil.copytree(VISIBLE / "hf", folder)
    other = dataclasses.replace(config, tokenizer=str(folder))
    check_start(other, said.append)
    assert said == []  # the same
    file = folder / "tokenizer.json"
    text = file.read_text()
    file.write_text(text + "\n")
    check_start(other, said.append)
    assert "0 of " in said[0]
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["entirely new"])
    tokenizer.save(str(file))
    with pytest.raises(
        OlaError, match=r"tokenizer: .* has \d+ tokens, and that of .* has \d+; leave tokenizer"
    ):
        check_start(other, said.append)


def test_a_checkpoint_of_a_stage_is_compared_by_the_record_beside_it(
    config: TrainConfig, tmp_path: pathlib.Path
) -> None:
    """Its shapes alone would not show another rope_theta."""
    folder = tmp_path / "other" / "0_tune"
    steps = folder / "checkpoints"
    (steps / "4" / "state").mkdir(parents=True)
    began = stage_settings.describe(
        changed(config, "model.llm.rope_theta", 1e4), 0, tokenizer=VISIBLE / "hf", generation={}
    )
    stage_settings.record(folder, began, Changes({}, {}), step=0, steps=10)
    for source in (steps, steps / "4"):
        with pytest.raises(OlaError, match=r"llm\.rope_theta \(10000\.0 there, 1000000\.0 here\)"):
            check_start(dataclasses.replace(config, init_from=str(source)), print)
    (folder / stage_settings.FILE).unlink()  # of an older version
    check_start(dataclasses.replace(config, init_from=str(steps)), print)


def test_every_stage_is_checked_before_the_first_is_trained(config: TrainConfig) -> None:
    (stage,) = config.stages
    mesh = sharding.make_mesh(MeshConfig(fsdp=2))
    check_stages(config, mesh)
    for changes, expected in (
        ({"trainable": ("llama/",)}, r"stages\.1: trainable: 'llama/' matches no parameter"),
        ({"rows": 3}, r"stages\.1: mesh: 3 rows"),
        ({"lora": dataclasses.replace(stage.lora, rank=2)}, r"stages\.1: lora\.pattern"),
    ):
        second = dataclasses.replace(stage, name="two", **changes)
        with pytest.raises(OlaError, match=expected):
            check_stages(dataclasses.replace(config, stages=(stage, second)), mesh)


def test_a_stage_whose_folder_is_a_file_is_refused(config: TrainConfig) -> None:
    stage_folder(config, 0).write_text("")
    with pytest.raises(OlaError, match="0_tune: cannot be created"):
        make_stage_folder(config, 0)
