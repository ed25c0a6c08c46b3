"""The optimizer's state in the host's memory, which JAX's CPU devices have beside their own."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.checkpoint import TrainCheckpoints
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import HOST, TrainState
from ola_jax.training.step import make_train_step
from tests import tiny

TRAINABLE = ("llm/", "vision_projector/", "speech_projector/")
TX = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0), steps=10)


def kinds(train_state: TrainState) -> dict[str, set[str]]:
    """Memories of the arrays of each field; of the optimizer's state without its counters."""
    of = lambda tree: {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}
    return {field: of(getattr(train_state, field)) for field in ("trainable", "frozen", "opt_state")}


@functools.cache
def three_steps(offload: bool, microbatches: int = 1) -> TrainState:
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        _, shardings = state.abstract_state(tiny.CONFIG, TRAINABLE, TX, mesh=mesh, offload=offload)
        train_state = state.create(tiny.params(), TRAINABLE, TX, shardings=shardings)
        assert kinds(train_state)["opt_state"] == {HOST if offload else "device"}
        step = make_train_step(Ola(tiny.CONFIG), TX, microbatches=microbatches, shardings=shardings)
        for seed in range(3):
            before = train_state
            train_state, _ = step(train_state, sharding.global_batch(tiny.make_batch(8, seed), mesh))
            assert all(x.is_deleted() for x in jax.tree.leaves(before.opt_state))  # donated
    return train_state


@pytest.mark.parametrize("microbatches", [1, 2])
def test_training_goes_on_bit_for_bit_as_with_the_state_on_the_device(microbatches: int) -> None:
    offloaded, expected = three_steps(True, microbatches), three_steps(False, microbatches)
    assert kinds(offloaded) == {"trainable": {"device"}, "frozen": {"device"}, "opt_state": {HOST}}
    for x, y in zip(*map(jax.tree.leaves, (offloaded, expected)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("offload", [True, False])
def test_an_offloaded_state_is_saved_and_comes_back_to_either_memory(
    tmp_path: pathlib.Path, offload: bool
) -> None:
    saved = three_steps(True)
    checkpoints = TrainCheckpoints(tmp_path)
    checkpoints.save(saved, {})
    checkpoints.close()
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    like = state.abstract_state(tiny.CONFIG, TRAINABLE, TX, mesh=mesh, offload=offload)
    restored, _ = TrainCheckpoints(tmp_path).restore(*like)
    assert kinds(restored)["opt_state"] == {HOST if offload else "device"}
    for x, y in zip(*map(jax.tree.leaves, (restored, saved)), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
