"""Every stage of every config in configs/ is complete: its step can be traced."""

import pathlib

import flax.linen as nn
import jax
import pytest

from ola_jax.batch import OlaBatch, spec
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.training import state
from ola_jax.training.load_config import load_config
from ola_jax.training.step import loss

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_loss_of_every_stage_can_be_traced(file: pathlib.Path) -> None:
    config = load_config([f"--config={file}"]).config
    params = nn.unbox(abstract_params(config.model))
    for stage in config.stages:
        state.split_params(params, stage.trainable)  # every pattern matches
        longest = config.model.chunk_tokens * stage.budget.audio_chunks
        assert longest <= stage.budget.tokens, f"{stage.name}: audio alone has {longest} tokens"
        shapes = spec(config.model, 1, stage.budget)
        of = lambda params, fields: loss(Ola(config.model), params, OlaBatch(**fields))[0]
        assert jax.eval_shape(of, params, shapes).shape == ()


def test_the_7b_config_takes_settings_by_topology() -> None:
    usual = load_config(["--config=configs/ola_7b.py"]).config
    config = load_config(["--config=configs/ola_7b.py::v5e:16x16"]).config
    assert [s.name for s in config.stages] == [s.name for s in usual.stages]
    for stage, before in zip(config.stages, usual.stages, strict=True):
        assert (stage.rows, stage.rows * stage.steps) == (128, before.rows * before.steps)
    assert (config.mesh.context, config.model.remat) == (2, "projections")
    (omni,) = load_config(["--config=configs/ola_7b.py:omni:tpu7x:2x2x1"]).config.stages
    assert (omni.name, omni.rows) == ("omni", 8)
    with pytest.raises(OlaError, match="no settings for 'v9:2x2'; there are v5e:16x16"):
        load_config(["--config=configs/ola_7b.py:omni:v9:2x2"])


def test_a_stage_of_the_7b_config_is_chosen_by_name() -> None:
    assert [s.name for s in load_config(["--config=configs/ola_7b.py:omni"]).config.stages] == ["omni"]
    with pytest.raises(OlaError, match="no stage 'onmi'; there are image_align, image_pretrain"):
        load_config(["--config=configs/ola_7b.py:onmi"])
