"""A run that is resumed from a checkpoint against the same run without a stop: equal bit for bit."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import struct

from ola_jax import sharding
from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, OryxViTConfig, Qwen2Config
from ola_jax.models.ola import Ola, init_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import lora, optimizer, state
from ola_jax.training.checkpoint import TrainCheckpoints, restore_params
from ola_jax.training.health import Health
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import HOST, TrainState
from ola_jax.training.step import TrainStep, make_train_step
from ola_jax.typing import Params
from tests import tiny

CONFIG = OlaConfig(
    llm=Qwen2Config(
        vocab_size=64, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=32
    ),
    vision=OryxViTConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, position_grid=4),
    whisper=None,
    beats=None,
)
BUDGET = Budget(tokens=32, windows=1, window_patches=16)
DTYPES = ("bfloat16", "float16", "float32")
ADAMW = OptimizerConfig(learning_rate=1e-2, warmup_ratio=0.0, weight_decay=0.1)
BF16 = dataclasses.replace(ADAMW, momentum_dtype="bfloat16")
PROJECTOR = ("vision_projector/",)
LORA = LoraConfig(rank=2)
RUNS = {
    "adamw_vision": (("vision/", *PROJECTOR), ADAMW, LoraConfig(), 1),
    "muon_vision": (("vision/.*qkv", *PROJECTOR), dataclasses.replace(BF16, kind="muon"), LoraConfig(), 1),
    "adafactor_lora": (PROJECTOR, dataclasses.replace(ADAMW, kind="adafactor"), LORA, 2),
    "adamw_dora": (PROJECTOR, BF16, dataclasses.replace(LORA, dora=True), 1),
    "muon_lora_offload": (PROJECTOR, dataclasses.replace(ADAMW, kind="muon", offload=True), LORA, 1),
}


@functools.cache
def float32_params() -> Params:
    return init_params(CONFIG, seed=0)


def mixed_params() -> Params:
    """Parameters in all dtypes that checkpoints have, neighbours in different ones."""
    leaves, tree = jax.tree.flatten(float32_params())
    cast = [np.asarray(x).astype(jax.numpy.dtype(DTYPES[i % 3])) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(tree, cast)


class Run:
    """A stage: its state after `step`, one of a few batches at a time, and its compiled step."""

    def __init__(self, name: str) -> None:
        trainable, config, adapters, microbatches = RUNS[name]
        self.adapters, self.tx = adapters, optimizer.build(config, steps=4)
        self.mesh = sharding.make_mesh(MeshConfig())
        self.like = state.abstract_state(
            CONFIG, trainable, self.tx, mesh=self.mesh, adapters=adapters, offload=config.offload
        )
        self.begin = lambda: state.create(
            mixed_params(), trainable, self.tx, shardings=self.like[1], adapters=adapters, seed=3
        )
        with jax.set_mesh(self.mesh):
            self.train_step: TrainStep = make_train_step(
                Ola(CONFIG), self.tx, microbatches=microbatches, shardings=self.like[1], adapters=adapters
            )

    def steps(self, train_state: TrainState, numbers: range) -> tuple[TrainState, list[float]]:
        losses = []
        with jax.set_mesh(self.mesh):
            for number in numbers:
                batch = tiny.make_batch(2, number, BUDGET)
                batch = batch.replace(tokens=batch.tokens % 64, targets=np.where(batch.targets < 0, -100, 7))
                train_state, metrics = self.train_step(train_state, sharding.global_batch(batch, self.mesh))
                losses.append(float(metrics["loss"]))
        return train_state, losses


def assert_same(actual: TrainState, expected: TrainState) -> None:
    pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (actual, expected)), strict=True)
    for (path, x), (_, y) in pairs:
        assert (x.dtype, x.sharding.memory_kind) == (y.dtype, y.sharding.memory_kind), path
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_run_without_a_stop(tmp_path: pathlib.Path, name: str) -> None:
    run = Run(name)
    begin = run.begin()
    assert {str(x.dtype) for x in begin.frozen.values()} == set(DTYPES)
    model = lambda now: lora.apply_adapters(now.params, now.adapters, run.adapters)
    dtypes = lambda now: jax.tree.map(lambda x: str(x.dtype), model(now))
    begin_dtypes = dtypes(begin)
    half, first = run.steps(begin, range(2))
    checkpoints = TrainCheckpoints(tmp_path, keep_best=1)
    checkpoints.save(half, {"at": 2}, {"eval/loss": 1.0})
    checkpoints.wait()
    expected, second = run.steps(half, range(2, 4))
    assert len({*first, *second}) == 4
    checkpoints.save(expected, {"at": 4}, {"eval/loss": 2.0})
    checkpoints.close()

    again = TrainCheckpoints(tmp_path, keep_best=1)
    best = again.restore_best(*run.like)
    actual, losses = run.steps(best, range(2, 4))
    assert losses == second
    assert_same(actual, expected)
    assert run.train_step._cache_size() == 1  # not compiled again
    newest, data = again.restore(*run.like)
    assert data == [{"at": 4}]
    assert_same(newest, expected)
    again.close()
    kinds = {x.sharding.memory_kind for x in jax.tree.leaves(newest.opt_state) if x.ndim}
    assert kinds == {HOST if "offload" in name else "device"}
    assert dtypes(newest) == begin_dtypes


@struct.dataclass
class OlderState:
    """The state before adapters had a field: they were among the trainable parameters."""

    step: Any
    trainable: dict[str, Any]
    frozen: dict[str, Any]
    opt_state: Any
    health: Health


def test_a_state_that_was_saved_with_adapters_among_the_parameters_is_restored(
    tmp_path: pathlib.Path,
) -> None:
    run = Run("adamw_dora")
    now = run.begin()
    trainable = dict(now.trainable)
    for path, adapter in now.adapters.items():
        fields = {"a": adapter.a, "b": adapter.b + 1, "magnitude": adapter.magnitude}
        trainable |= {f"lora/{path}/{name}": value for name, value in fields.items()}
    opt_state = jax.tree.map(lambda x: x + 2, run.tx.init(trainable))
    older = OlderState(jax.numpy.int32(7), trainable, now.frozen, opt_state, now.health)
    with ocp.CheckpointManager(tmp_path) as manager:
        data = ocp.args.JsonSave({"processes": [{"at": 7}]})
        manager.save(7, args=ocp.args.Composite(state=ocp.args.PyTreeSave(older), data=data))

    checkpoints = TrainCheckpoints(tmp_path)
    restored, data_states = checkpoints.restore(*run.like)
    assert (int(restored.step), data_states) == (7, [{"at": 7}])
    assert restored.trainable.keys() == now.trainable.keys()
    assert len(restored.adapters) == 7
    for path, adapter in restored.adapters.items():
        np.testing.assert_array_equal(adapter.a, trainable[f"lora/{path}/a"])
        np.testing.assert_array_equal(adapter.b, trainable[f"lora/{path}/b"])
        np.testing.assert_array_equal(adapter.magnitude, trainable[f"lora/{path}/magnitude"])
        assert adapter.a.sharding == run.like[1].adapters[path].a
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, opt_state)

    # What is saved now has the same layout.
    checkpoints.save(restored.replace(step=restored.step + 1), {"at": 8})
    checkpoints.close()
    names = lambda step: jax.tree_util.tree_structure(
        ocp.PyTreeCheckpointHandler().metadata(tmp_path / step / "state").tree
    )
    assert names("8") == names("7")


def test_parameters_alone_keep_the_dtypes_they_are_stored_in(tmp_path: pathlib.Path) -> None:
    run = Run("adamw_vision")
    begin = run.begin()
    checkpoints = TrainCheckpoints(tmp_path)
    checkpoints.save(begin, {})
    checkpoints.close()
    like = float32_params()
    places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), like)
    restored = restore_params(tmp_path, like, places)
    same = lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    jax.tree.map(same, restored, begin.params)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, begin.params)
