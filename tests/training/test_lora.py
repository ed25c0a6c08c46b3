import jax
import numpy as np
import pytest

from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig, global_batch, make_mesh
from ola_jax.training import lora, optimizer, state
from ola_jax.training.lora import Adapter, Adapters, LoraConfig
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step
from tests import tiny

PATH = "llm/layers/self_attn/q_proj/kernel"
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 8, 6)).astype(np.float32)


def adapted(adapters: Adapters, config: LoraConfig) -> np.ndarray:
    """The kernel with its change."""
    params = lora.apply_adapters(state.join_params({}, {PATH: KERNEL}), adapters, config)
    assert set(params) == {"llm"}
    return np.asarray(state.split_params(params, (".*",))[0][PATH])


@pytest.mark.parametrize("dora", [False, True])
def test_new_adapters_change_nothing(dora: bool) -> None:
    config = LoraConfig(rank=2, dora=dora)
    adapters = lora.init_adapters({PATH: KERNEL}, config)
    assert adapters[PATH].a.shape == (3, 8, 2)
    assert np.abs(adapters[PATH].a).max() > 0
    assert (adapters[PATH].magnitude is not None) == dora
    np.testing.assert_allclose(adapted(adapters, config), KERNEL, rtol=1e-6)


def test_kernels_are_changed_as_the_papers_say() -> None:
    a, b = RNG.normal(size=(3, 8, 2)).astype(np.float32), RNG.normal(size=(3, 2, 6)).astype(np.float32)
    magnitude = RNG.random((3, 6)).astype(np.float32)
    plain = adapted({PATH: Adapter(a, b)}, LoraConfig(rank=2, alpha=3.0))
    changed = KERNEL + 1.5 * np.einsum("lir,lro->lio", a, b)
    np.testing.assert_allclose(plain, changed, rtol=1e-5, atol=1e-6)

    found = adapted({PATH: Adapter(a, b, magnitude)}, LoraConfig(rank=2, alpha=3.0, dora=True))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), magnitude, rtol=1e-5)
    lengths = np.linalg.norm(changed, axis=1, keepdims=True)
    np.testing.assert_allclose(found, changed / lengths * magnitude[:, None], rtol=1e-4, atol=1e-6)


def test_a_step_on_a_mesh_moves_adapters_and_no_kernel() -> None:
    config = LoraConfig(rank=4, dora=True)
    tx = optimizer.build(OptimizerConfig(learning_rate=1e-2, warmup_ratio=0.0), steps=10)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        _, shardings = state.abstract_state(
            tiny.CONFIG, ("vision_projector/",), tx, mesh=mesh, adapters=config
        )
        train_state = state.create(
            tiny.params(), ("vision_projector/",), tx, shardings=shardings, adapters=config
        )
        assert "fsdp" in str(shardings.adapters[PATH].a.spec)
        assert len(train_state.adapters) == 7
        assert {path.split("/")[0] for path in train_state.trainable} == {"vision_projector"}
        step = make_train_step(Ola(tiny.CONFIG), tx, shardings=shardings, adapters=config)
        losses = []
        for _ in range(3):
            train_state, metrics = step(train_state, global_batch(tiny.make_batch(2, 0), mesh))
            losses.append(float(metrics["loss"]))
    assert losses[2] < losses[0]
    np.testing.assert_array_equal(train_state.frozen[PATH], state.split_params(tiny.params(), ())[1][PATH])
    applied = lora.apply_adapters(train_state.params, train_state.adapters, config)
    assert set(applied) == set(tiny.params())
    kernel = np.asarray(state.split_params(applied, (".*",))[0][PATH])
    assert np.abs(kernel - train_state.frozen[PATH]).max() > 1e-4


def test_adapters_have_names_beside_parameters_and_come_back_from_them() -> None:
    plain, directed = Adapter(1, 2), Adapter(3, 4, 5)
    named = lora.name_trained({"llm/norm": 0}, {"llm/x": plain, "llm/y": directed})
    assert named == {
        "llm/norm": 0,
        **{"lora/llm/x/a": 1, "lora/llm/x/b": 2},
        **{"lora/llm/y/a": 3, "lora/llm/y/b": 4, "lora/llm/y/magnitude": 5},
    }
    assert [name for name in named if not lora.is_adapter(name)] == ["llm/norm"]
    assert lora.split_trained(named) == ({"llm/norm": 0}, {"llm/x": plain, "llm/y": directed})


def test_adapters_of_trained_kernels_are_refused() -> None:
    with pytest.raises(OlaError, match="matches no frozen parameter"):
        lora.init_adapters({"vision/norm": KERNEL}, LoraConfig(rank=2))


def test_adapters_start_from_the_seed() -> None:
    tx = optimizer.build(OptimizerConfig(), steps=1)
    starts = [
        state.create(
            {"llm": {"norm": KERNEL[0, 0], "kernel": KERNEL}}, ("llm/norm",), tx, adapters=config, seed=seed
        )
        for config in [LoraConfig(rank=2, pattern="llm/kernel")]
        for seed in (0, 0, 1)
    ]
    first, same, other = (np.asarray(s.adapters["llm/kernel"].a) for s in starts)
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("pattern", ["llm/.*", "llm/(kernel|norm)", "llm/.*m"])
def test_a_pattern_that_matches_more_than_kernels_is_refused(pattern: str) -> None:
    frozen = {"llm/kernel": KERNEL, "llm/norm": KERNEL[0]}  # stacked scales look like a matrix
    with pytest.raises(OlaError, match=r"lora.pattern: '.*' also matches llm/norm, which is no kernel"):
        lora.init_adapters(frozen, LoraConfig(rank=2, pattern=pattern))


def test_a_pattern_that_matches_nothing_names_what_is_frozen() -> None:
    with pytest.raises(OlaError, match=r"'llm/' matches no frozen parameter.* frozen is llm/kernel$"):
        lora.init_adapters({"llm/kernel": KERNEL, "llm/norm": KERNEL[0]}, LoraConfig(rank=2, pattern="llm/"))
