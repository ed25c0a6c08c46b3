"""Memory of the compiled step."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from ola_jax.batch import Budget, OlaBatch, spec
from ola_jax.config import OlaConfig
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig, make_mesh
from ola_jax.training import optimizer, state
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step
from tests import tiny

ENCODERS = ("vision", "whisper", "beats")
TUNE = ("llm/", "vision_projector/", "speech_projector/")
BUDGET = Budget(tokens=64, windows=4, window_patches=64, audio_chunks=4)


def compiled(
    config: OlaConfig, trainable: tuple[str, ...], budget: Budget, rows: int = 1
) -> jax.stages.Compiled:
    tx = optimizer.build(OptimizerConfig(), steps=10)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        abstract, shardings = state.abstract_state(config, trainable, tx, mesh=mesh)
        step = make_train_step(Ola(config), tx, shardings=shardings)
        of_fields = lambda state, fields: step(state, OlaBatch(**fields))
        return jax.jit(of_fields).lower(abstract, spec(config, rows, budget)).compile()


def temporaries(encoder_layers: int, trainable: tuple[str, ...]) -> int:
    deep = {
        name: dataclasses.replace(getattr(tiny.CONFIG, name), num_layers=encoder_layers) for name in ENCODERS
    }
    config = dataclasses.replace(tiny.CONFIG, **deep)
    return compiled(config, trainable, BUDGET).memory_analysis().temp_size_in_bytes


def test_frozen_encoders_save_no_activations() -> None:
    windows, width = BUDGET.windows * BUDGET.window_patches, tiny.CONFIG.vision.hidden_size
    of_a_layer = windows * width * 4  # bytes of one activation of one layer of the vision encoder alone
    frozen = temporaries(8, TUNE) - temporaries(2, TUNE)
    trained = temporaries(8, (*TUNE, "vision/")) - temporaries(2, (*TUNE, "vision/"))
    assert frozen < of_a_layer
    assert trained > 6 * of_a_layer


def test_frozen_parameters_have_no_optimizer_state() -> None:
    tx = optimizer.build(OptimizerConfig(), steps=10)
    abstract, _ = state.abstract_state(tiny.CONFIG, TUNE, tx, mesh=make_mesh(MeshConfig()))
    assert {path.split("/")[0] for path in abstract.frozen} == set(ENCODERS)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree) if x.ndim)
    assert size(abstract.opt_state) == 2 * size(abstract.trainable)  # two moments


@pytest.mark.parametrize("remat", ["none", "full"])
def test_logits_never_exist_whole(remat: str) -> None:
    vocabulary, tokens, rows = 520, 1536, 2
    llm = dataclasses.replace(tiny.CONFIG.llm, vocab_size=vocabulary)
    config = dataclasses.replace(tiny.CONFIG, llm=llm, remat=remat)
    text = compiled(config, TUNE, Budget(tokens=tokens), rows).as_text()
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"\w+\[([\d,]+)\]", text)}
    sizes = {shape: int(np.prod(shape)) for shape in shapes if vocabulary in shape}
    assert (1024, vocabulary) in sizes  # one chunk of them
    assert max(sizes.values()) < rows * tokens * vocabulary
