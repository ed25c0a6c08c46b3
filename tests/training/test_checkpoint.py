import dataclasses
import logging
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.checkpoint import TrainCheckpoints, is_training_checkpoint, restore_params
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import TrainState
from tests import tiny

TX = optimizer.build(OptimizerConfig(momentum_dtype="bfloat16"), steps=10)
TRAINABLE = ("vision_projector/",)


def sharded(config: MeshConfig) -> tuple[TrainState, TrainState]:
    return state.shard(tiny.CONFIG, TRAINABLE, TX, sharding.make_mesh(config))


def saved(folder: pathlib.Path, steps: int, keep: int = 2) -> TrainState:
    """Checkpoints of steps 1 to `steps`, whose parameters tell the step."""
    shardings = sharded(MeshConfig(fsdp=4, tensor=2))[1]
    train_state = state.create(tiny.params(), TRAINABLE, TX, shardings)
    checkpoints = TrainCheckpoints(folder, keep)
    for step in range(1, steps + 1):
        trainable = {path: x * 0 + step for path, x in train_state.trainable.items()}
        train_state = train_state.replace(step=jax.numpy.int32(step), trainable=trainable)
        checkpoints.save(train_state, {"at": step})
    checkpoints.close()
    return train_state


def test_a_state_comes_back_on_another_mesh_as_it_was(tmp_path: pathlib.Path) -> None:
    expected = saved(tmp_path, 3)
    abstract, shardings = sharded(MeshConfig(data=2, fsdp=2, context=2))
    restored, data = TrainCheckpoints(tmp_path).restore(abstract, shardings)
    assert data == {"at": 3}
    pairs = zip(*map(jax.tree.leaves, (restored, expected, shardings)), strict=True)
    for actual, value, place in pairs:
        assert actual.dtype == value.dtype
        assert actual.sharding.is_equivalent_to(place, actual.ndim)
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(value))


def test_as_many_checkpoints_are_kept_as_asked(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 4, keep=3)
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == [2, 3, 4]


def damage(folder: pathlib.Path) -> None:
    for file in (folder / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 3)
    damage(tmp_path / "3")
    with caplog.at_level(logging.WARNING, "ola_jax"):
        checkpoints = TrainCheckpoints(tmp_path)
        restored, data = checkpoints.restore(*sharded(MeshConfig()))
    assert (int(restored.step), data) == (2, {"at": 2})
    checkpoints.save(restored.replace(step=restored.step + 1), {"at": "again"})
    checkpoints.close()
    assert {f.name for f in tmp_path.iterdir()} == {"2", "3", "3.damaged"}
    assert TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))[1] == {"at": "again"}
    assert f"{tmp_path / '3'}: cannot be read" in caplog.text

    damage(tmp_path / "2")
    damage(tmp_path / "3")
    with pytest.raises(OlaError, match=r"none of the checkpoints \[3, 2\] can be read"):
        TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path: pathlib.Path) -> None:
    assert TrainCheckpoints(tmp_path / "none").restore(*sharded(MeshConfig())) is None


def test_the_best_are_kept_beside_the_newest(tmp_path: pathlib.Path) -> None:
    shardings = sharded(MeshConfig())[1]
    train_state = state.create(tiny.params(), TRAINABLE, TX, shardings)
    checkpoints = TrainCheckpoints(tmp_path, keep=1, keep_best=2)
    assert checkpoints.best_step is None
    with pytest.raises(OlaError, match="no checkpoint has 'eval/loss'"):
        checkpoints.restore_best(*sharded(MeshConfig()))
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: 4.0, 7: None}
    for step, loss in losses.items():
        now = train_state.replace(step=jax.numpy.int32(step))
        checkpoints.save(now, {}, {} if loss is None else {"eval/loss": loss, "eval/accuracy": float(step)})
    checkpoints.wait()
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == [2, 4, 7]
    checkpoints.close()

    again = TrainCheckpoints(tmp_path, keep=1, keep_best=2)  # as a run that goes on
    assert again.best_step == 2
    assert int(again.restore_best(*sharded(MeshConfig())).step) == 2
    assert int(again.restore(*sharded(MeshConfig()))[0].step) == 7
    again.close()
    assert TrainCheckpoints(tmp_path, metric="eval/accuracy", smallest=False).best_step == 4


def test_parameters_alone_come_back_whatever_was_trained(tmp_path: pathlib.Path) -> None:
    expected = saved(tmp_path, 2)
    assert is_training_checkpoint(tmp_path)
    assert is_training_checkpoint(tmp_path / "1")
    assert not is_training_checkpoint(tmp_path / "1" / "state")
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    boxed = abstract_params(tiny.CONFIG)
    places = sharding.parameter_shardings(boxed, mesh)
    params = restore_params(tmp_path, nn.unbox(boxed), places)
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    older = state.split(restore_params(tmp_path / "1", nn.unbox(boxed), places), TRAINABLE)[0]
    assert all((np.asarray(x) == 1).all() for x in older.values())
    # Another model, and adapters that are not part of it yet.
    other = dataclasses.replace(tiny.CONFIG, speech_hidden_size=32)
    with pytest.raises(OlaError, match=r"speech_projector/\S+ has shape \(\d+.*, the config's model \("):
        restore_params(tmp_path, nn.unbox(abstract_params(other)), places)
    adapted = expected.replace(trainable=expected.trainable | {"lora/x/a": np.zeros(2)})
    checkpoints = TrainCheckpoints(tmp_path / "lora")
    checkpoints.save(adapted, {})
    checkpoints.close()
    with pytest.raises(OlaError, match="holds adapters; take the model that the stage ended with"):
        restore_params(tmp_path / "lora", nn.unbox(boxed), places)
