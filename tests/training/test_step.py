"""Parts of a batch, one after the other, against the full batch: for every subset of modalities."""

import itertools

import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.batch import IGNORE, TEXT, Budget, OlaBatch
from ola_jax.config import OlaConfig, OryxViTConfig, Qwen2Config, WhisperConfig
from ola_jax.models.ola import Ola, init_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step
from tests import tiny

CONFIG = OlaConfig(
    llm=Qwen2Config(
        vocab_size=512, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=32
    ),
    vision=OryxViTConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, position_grid=4),
    whisper=WhisperConfig(num_mels=80, num_positions=100, hidden_size=16, num_layers=1, num_heads=2),
    beats=None,
    speech_hidden_size=16,
)


def make_batch(images: bool, audio: bool) -> OlaBatch:
    """Four rows, every second without labelled tokens; features of the media that there are, and marks."""
    budget = Budget(tokens=16, windows=int(images), window_patches=16, audio_chunks=int(audio))
    batch = tiny.make_batch(4, 0, budget)
    if not (images or audio):
        batch = batch.replace(source=np.full_like(batch.source, TEXT))
    targets = batch.targets.copy()
    targets[1::2], targets[2, 0] = IGNORE, 3
    return batch.replace(targets=targets)


@pytest.mark.parametrize(("images", "audio"), [*itertools.product([False, True], repeat=2)])
def test_microbatches_equal_the_whole_batch(images: bool, audio: bool) -> None:
    batch, found = make_batch(images, audio), []
    assert (batch.patches.size > 0, batch.audio.size > 0) == (images, audio)
    tx = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0, eps=1e-4), steps=2)
    params = jax.tree.map(np.asarray, init_params(CONFIG, seed=0))  # steps take the state
    for microbatches in (1, 2):
        train_state = state.create(params, ("llm/", "vision_projector/", "speech_projector/"), tx)
        train_state, metrics = make_train_step(Ola(CONFIG), tx, microbatches=microbatches)(train_state, batch)
        figures = [float(metrics[name]) for name in ("loss", "targets", "tokens", "grad_norm", "bad_step")]
        found.append((figures, jax.tree.map(np.asarray, train_state.trainable)))
    assert found[0][0][1] > 1
    assert found[0][0][4] == 0
    (figures, trainable) = found[1]
    np.testing.assert_allclose(figures, found[0][0], rtol=1e-5)
    for path, value in found[0][1].items():
        np.testing.assert_allclose(trainable[path], value, atol=2e-6, err_msg=path)


def test_microbatches_without_media_equal_the_whole_batch_on_a_mesh() -> None:
    batch, found = make_batch(images=False, audio=False), []
    tx = optimizer.build(OptimizerConfig(), steps=2)
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        _, shardings = state.abstract_state(CONFIG, ("llm/norm",), tx, mesh=mesh)
        for microbatches in (1, 2):
            params = jax.tree.map(np.asarray, init_params(CONFIG, seed=0))
            train_state = state.create(params, ("llm/norm",), tx, shardings=shardings)
            step = make_train_step(Ola(CONFIG), tx, microbatches=microbatches, shardings=shardings)
            metrics = step(train_state, sharding.global_batch(batch, mesh))[1]
            found.append([float(metrics[name]) for name in ("loss", "targets", "tokens", "grad_norm")])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
