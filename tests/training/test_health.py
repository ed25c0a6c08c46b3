"""Bad steps within the compiled step: nothing of them remains but their count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from ola_jax import sharding
from ola_jax.batch import IGNORE, OlaBatch, feature_table
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig
from ola_jax.training import health, optimizer, state
from ola_jax.training.health import WINDOW
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import TrainState
from ola_jax.training.step import TrainStep, make_train_step
from tests import tiny

TRAINABLE = ("speech_projector/", "llm/norm")


def poisoned(batch: OlaBatch) -> OlaBatch:
    """The batch with audio that is not finite in one row."""
    audio = batch.audio.copy()
    audio[3, 1, 100] = np.inf
    source = batch.source.copy()
    source[3] = feature_table(tiny.CONFIG, tiny.BUDGET).start("audio") + tiny.CONFIG.chunk_tokens
    return batch.replace(audio=audio, source=source)


TX = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0, weight_decay=0.1), steps=10)


@functools.cache
def compiled(mesh: Mesh) -> tuple[TrainState, TrainStep]:
    """Shardings and step."""
    _, shardings = state.abstract_state(tiny.CONFIG, TRAINABLE, TX, mesh=mesh)
    return shardings, make_train_step(Ola(tiny.CONFIG), TX, shardings=shardings)


def run(batches: list[OlaBatch], mesh_config: MeshConfig) -> tuple[TrainState, list[dict]]:
    mesh = sharding.make_mesh(mesh_config)
    shardings, step = compiled(mesh)
    with jax.set_mesh(mesh):
        train_state = state.create(tiny.params(), TRAINABLE, TX, shardings=shardings)
        found = []
        for batch in batches:
            train_state, metrics = step(train_state, sharding.global_batch(batch, mesh))
            found.append({name: float(value) for name, value in metrics.items()})
    return train_state, found


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=4, tensor=2)], ids=["one", "mesh"])
def test_a_run_with_a_bad_batch_is_one_without_it(mesh: MeshConfig) -> None:
    good = [tiny.make_batch(8, seed) for seed in range(3)]
    with_bad, found = run([good[0], poisoned(good[1]), good[1], good[2]], mesh)
    without, expected = run(good, mesh)
    assert not np.isfinite(found[1]["grad_norm"])
    assert [m["bad_step"] for m in found] == [0, 1, 0, 0]
    assert [m["bad_steps"] for m in found] == [0, 1, 1, 1]
    assert [m["loss"] for m in (found[0], *found[2:])] == [m["loss"] for m in expected]
    assert (int(with_bad.step), int(with_bad.health.bad_steps)) == (4, 1)
    kept = lambda s: (s.trainable, s.frozen, s.opt_state, s.health.loss_mean, s.health.good_steps)
    jax.tree.map(np.testing.assert_array_equal, kept(with_bad), kept(without))


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=4, tensor=2)], ids=["one", "mesh"])
def test_a_batch_without_labelled_tokens_changes_nothing_and_has_no_loss(mesh: MeshConfig) -> None:
    good = [tiny.make_batch(8, seed) for seed in range(2)]
    empty = good[1].replace(targets=np.full_like(good[1].targets, IGNORE))
    with_empty, found = run([good[0], empty, good[1]], mesh)
    without, expected = run(good, mesh)
    assert (found[1]["targets"], found[1]["bad_step"]) == (0, 1)
    assert np.isnan(found[1]["loss"])
    assert [m["loss"] for m in (found[0], found[2])] == [m["loss"] for m in expected]
    kept = lambda s: (s.trainable, s.frozen, s.opt_state, s.health.loss_mean, s.health.good_steps)
    jax.tree.map(np.testing.assert_array_equal, kept(with_empty), kept(without))


def test_a_bad_step_has_its_reason() -> None:
    assert health.describe_bad_step(np.nan, 0.0, 0) == "no labelled token in the batch"
    assert health.describe_bad_step(np.nan, 0.5, 3) == "loss nan, gradient norm 0.5"
    assert health.describe_bad_step(9.0, 0.5, 3) == "loss 9, gradient norm 0.5 (a spike)"


def test_the_norms_of_parts_make_up_the_norm_of_all() -> None:
    _, (found,) = run([tiny.make_batch(8, 0)], MeshConfig())
    parts = {name: value for name, value in found.items() if name.startswith("grad_norm/")}
    assert set(parts) == {"grad_norm/llm", "grad_norm/speech_projector"}
    np.testing.assert_allclose(np.hypot(*parts.values()), found["grad_norm"], rtol=1e-6)
    assert min(parts.values()) > 0


def judged(losses: list[float], factor: float | None) -> tuple[list[bool], health.Health]:
    now, good = health.init_health(), []
    for loss in losses:
        one, now = health.judge(now, jnp.float32(loss), jnp.float32(1), spike_factor=factor)
        good.append(bool(one))
    return good, now


def test_a_spike_is_far_above_the_running_mean_of_good_steps() -> None:
    usual = [2.0, 4.0] * (WINDOW // 2)
    good, now = judged([*usual, 8.9, 9.4, 100.0, 3.0], factor=3.0)
    assert good == [True] * WINDOW + [True, False, False, True]
    assert (int(now.good_steps), int(now.bad_steps)) == (WINDOW + 2, 2)
    mean = 3.0 + (8.9 - 3.0) / WINDOW
    np.testing.assert_allclose(float(now.loss_mean), mean + (3.0 - mean) / WINDOW, rtol=1e-5)


def test_no_loss_is_a_spike_before_enough_steps_or_without_a_factor() -> None:
    assert all(judged([1.0] * (WINDOW - 1) + [100.0], factor=2.0)[0])
    assert all(judged([1.0] * WINDOW + [100.0], factor=None)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_always_bad(value: float) -> None:
    assert judged([1.0, value, 2.0], factor=None)[0] == [True, False, True]
    norm_bad, now = health.judge(health.init_health(), jnp.float32(1), jnp.float32(value), spike_factor=None)
    assert not norm_bad
    assert int(now.bad_steps) == 1
