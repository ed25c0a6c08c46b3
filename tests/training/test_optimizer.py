import numpy as np
import optax
import pytest

from ola_jax.errors import OlaError
from ola_jax.training import optimizer, state
from ola_jax.training.optimizer import OptimizerConfig, PartRate

PARAMS = {
    "llm": {"mlp": {"kernel": np.ones((2, 2), np.float32)}, "norm": {"scale": np.ones(2, np.float32)}},
    "whisper": {"positional_embedding": np.ones((2, 2), np.float32)},  # a buffer in the original
    "vision": {"mlp": {"kernel": np.ones((2, 2), np.float16)}},
}


def test_the_rate_rises_falls_and_ends_at_the_floor() -> None:
    share = optimizer.schedule(OptimizerConfig(warmup_ratio=0.1, floor_ratio=0.01), steps=100)
    np.testing.assert_allclose([share(0), share(5), share(10)], [0, 0.5, 1.0])
    assert share(40) > share(70) > share(100)
    np.testing.assert_allclose(share(100), 0.01)


def test_parts_have_rates_of_their_own() -> None:
    config = OptimizerConfig(
        learning_rate=0.1, part_rates=(PartRate("llm/norm", 0.5),), warmup_ratio=0.0, clip_norm=None
    )
    tx = optimizer.build(config, steps=1)
    train_state = state.create(PARAMS, (".*",), tx)
    grads = {path: np.ones_like(value) for path, value in train_state.trainable.items()}
    updates, _ = tx.update(grads, train_state.opt_state, train_state.trainable)
    np.testing.assert_allclose(updates["llm/mlp/kernel"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["llm/norm/scale"], -0.5, rtol=1e-5)


def test_only_matrices_decay() -> None:
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_ratio=0.0)
    tx = optimizer.build(config, steps=1)
    train_state = state.create(PARAMS, (".*",), tx)
    none = {path: np.zeros_like(value) for path, value in train_state.trainable.items()}
    updates, _ = tx.update(none, train_state.opt_state, train_state.trainable)
    moved = optax.apply_updates(train_state.trainable, updates)
    np.testing.assert_allclose(moved["llm/mlp/kernel"], 0.95)
    np.testing.assert_allclose(moved["llm/norm/scale"], 1.0)
    np.testing.assert_allclose(moved["whisper/positional_embedding"], 1.0)


def test_frozen_parameters_keep_their_dtype_and_have_no_optimizer_state() -> None:
    tx = optimizer.build(OptimizerConfig(), steps=1)
    train_state = state.create(PARAMS, ("llm/",), tx)
    assert set(train_state.trainable) == {"llm/mlp/kernel", "llm/norm/scale"}
    assert train_state.frozen["vision/mlp/kernel"].dtype == np.float16
    assert "vision/mlp/kernel" not in str(train_state.opt_state)
    assert train_state.params["vision"]["mlp"]["kernel"].shape == (2, 2)


def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_parts() -> None:
    with pytest.raises(OlaError, match=r"'visoin/' matches no parameter; the model has llm, vision, whisper"):
        state.split(PARAMS, ("visoin/",))


def test_muon_makes_the_steps_of_each_layers_kernel_orthogonal_and_leaves_the_rest_to_adam() -> None:
    rng = np.random.default_rng(0)
    stacked = rng.normal(size=(3, 8, 16)).astype(np.float32)
    params = {"llm": {"layers": {"kernel": stacked}, "lm_head": {"kernel": np.ones((8, 16), np.float32)}}}
    config = OptimizerConfig(kind="muon", learning_rate=0.1, warmup_ratio=0.0, floor_ratio=1.0)
    tx = optimizer.build(config, steps=1)
    train_state = state.create(params, (".*",), tx)
    grads = {
        path: rng.normal(size=value.shape).astype(np.float32) for path, value in train_state.trainable.items()
    }
    updates, _ = tx.update(grads, train_state.opt_state, train_state.trainable)
    for layer, gradient in zip(
        np.asarray(updates["llm/layers/kernel"]), grads["llm/layers/kernel"], strict=True
    ):
        singular = np.linalg.svd(layer / (0.1 * 0.2 * 16**0.5), compute_uv=False)
        assert singular.min() > 0.6  # Newton-Schulz comes near 1, no nearer
        assert singular.max() < 1.3
        assert (layer * gradient).sum() < 0  # downhill
    head = updates["llm/lm_head/kernel"] / np.sign(grads["llm/lm_head/kernel"])
    np.testing.assert_allclose(head, head[0, 0], rtol=1e-3)  # Adam's first step: the same for all
    assert head[0, 0] < 0
