"""The training step on meshes of 8 devices against the same step on one."""

import functools

import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.aot import hlo
from ola_jax.batch import Budget, OlaBatch
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import loss, make_train_step
from tests import tiny

TRAINABLE = ("llm/", "vision_projector/", "speech_projector/")
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=8),
    "fsdp_tensor2": MeshConfig(fsdp=4, tensor=2),
    "fsdp_tensor4": MeshConfig(fsdp=2, tensor=4),
    "context": MeshConfig(fsdp=2, context=4),
    "all": MeshConfig(data=2, tensor=2, context=2),
}


@functools.cache
def batches() -> list:
    return [tiny.make_batch(8, seed) for seed in range(5)]


@functools.cache
def five_steps(mesh_config: MeshConfig, microbatches: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Loss, targets and gradient norm of five steps; the parameters after them."""
    # Where gradients are all but zero, Adam turns rounding into steps: a larger epsilon damps that.
    tx = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0, eps=1e-4), steps=10)
    mesh = sharding.make_mesh(mesh_config)
    with jax.set_mesh(mesh):
        _, shardings = state.abstract_state(tiny.CONFIG, TRAINABLE, tx, mesh=mesh)
        train_state = state.create(tiny.params(), TRAINABLE, tx, shardings=shardings)
        step = make_train_step(Ola(tiny.CONFIG), tx, microbatches=microbatches, shardings=shardings)
        found = []
        for batch in batches():
            train_state, metrics = step(train_state, sharding.global_batch(batch, mesh))
            found.append([float(metrics[name]) for name in ("loss", "targets", "grad_norm")])
        for x, expected in zip(jax.tree.leaves(train_state), jax.tree.leaves(shardings), strict=True):
            assert x.sharding.is_equivalent_to(expected, x.ndim), (x.sharding, expected)
    return np.array(found), {path: np.asarray(x) for path, x in train_state.trainable.items()}


def assert_equal_runs(actual: tuple, expected: tuple) -> None:
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for path, value in expected[1].items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(actual[1][path], value, atol=1e-5 * scale, rtol=0, err_msg=path)


@pytest.mark.parametrize("name", MESHES)
def test_losses_and_parameters_after_five_steps_equal_those_of_one_device(name: str) -> None:
    assert_equal_runs(five_steps(MESHES[name]), five_steps(MeshConfig()))


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [(MeshConfig(), 4), (MeshConfig(fsdp=2, tensor=2), 2)], ids=["one", "mesh"]
)
def test_microbatches_give_the_loss_and_update_of_the_whole_batch(
    mesh: MeshConfig, microbatches: int
) -> None:
    targets = [(batch.targets >= 0).sum(axis=1) for batch in batches()]
    assert max(t.max() for t in targets) > 4 * min(t.min() for t in targets)  # means of parts would differ
    assert_equal_runs(five_steps(mesh, microbatches), five_steps(MeshConfig()))


def test_windows_and_sound_stay_on_the_device_that_has_their_row() -> None:
    mesh = sharding.make_mesh(MESHES["fsdp"])
    places = sharding.parameter_shardings(abstract_params(tiny.CONFIG), mesh)
    place = lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
    params = jax.tree.map(place, tiny.params(), places)

    def features(params: dict, fields: dict) -> jax.Array:
        return Ola(tiny.CONFIG).apply({"params": params}, OlaBatch(**fields), method="features").sum()

    def moved(windows: int, chunks: int) -> dict[str, float]:
        budget = Budget(tokens=8, windows=windows, window_patches=16, audio_chunks=chunks)
        with jax.set_mesh(mesh):
            fields = vars(sharding.global_batch(tiny.make_batch(8, 0, budget), mesh))
            program = jax.jit(jax.grad(features), out_shardings=places).lower(params, fields).compile()
        return {
            kind: found.bytes for kind, found in hlo.count_collectives(hlo.Program(program.as_text())).items()
        }

    assert moved(windows=2, chunks=1) == moved(windows=4, chunks=2)  # nothing but weights travels


@pytest.mark.parametrize("name", [pytest.param("fsdp_tensor2", marks=pytest.mark.slow), "all"])
def test_gradients_of_all_parameters_equal_those_of_one_device(name: str) -> None:
    def gradients(mesh_config: MeshConfig) -> dict[str, np.ndarray]:
        mesh = sharding.make_mesh(mesh_config)
        tx = optimizer.build(OptimizerConfig(), steps=1)
        with jax.set_mesh(mesh):
            _, shardings = state.abstract_state(tiny.CONFIG, (".*",), tx, mesh=mesh)
            flat = jax.device_put(state.split_params(tiny.params(), (".*",))[0], shardings.trainable)
            of = jax.jit(jax.grad(lambda p, b: loss(Ola(tiny.CONFIG), state.join_params(p, {}), b)[0]))
            return jax.tree.map(np.asarray, of(flat, sharding.global_batch(batches()[0], mesh)))

    actual, expected = gradients(MESHES[name]), gradients(MeshConfig())
    for path, value in expected.items():
        scale = max(np.abs(value).max(), 1e-3)  # keys' biases have no gradient but rounding
        np.testing.assert_allclose(actual[path], value, atol=1e-5 * scale, rtol=0, err_msg=path)
    assert {path.split("/")[0] for path, value in expected.items() if np.abs(value).max() > 1e-3} == set(
        tiny.params()
    )
