import dataclasses

import jax
import numpy as np
import optax
import optax.contrib
import pytest
import torch
from transformers import Trainer

from ola_jax.errors import OlaError
from ola_jax.training import lora, optimizer, state
from ola_jax.training.lora import LoraConfig
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


def test_adapters_decay_as_in_pytorchs_trainer() -> None:
    """Its rule: every parameter decays but those of norms and biases."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = lambda *shape: torch.nn.Parameter(torch.ones(shape))
            self.lora_A = torch.nn.ParameterDict({"default": weight(2, 3)})
            self.lora_B = torch.nn.ParameterDict({"default": weight(3, 2)})
            self.lora_magnitude_vector = torch.nn.ParameterDict({"default": weight(3)})
            self.bias = weight(3)

    names = {"lora_A.default": "a", "lora_B.default": "b", "lora_magnitude_vector.default": "magnitude"}
    theirs = Trainer.get_decay_parameter_names(None, Layer())
    assert {names[name] for name in theirs} == {"a", "b", "magnitude"}
    config = LoraConfig(rank=2, dora=True, pattern="llm/mlp/kernel")
    kernels = {"llm/mlp/kernel": np.ones((3, 3), np.float32)}
    adapters = lora.name_trained({}, lora.init_adapters(kernels, config))
    assert optimizer.decays(adapters) == dict.fromkeys(
        (f"lora/llm/mlp/kernel/{n}" for n in names.values()), True
    )

    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, warmup_ratio=0.0, floor_ratio=1.0)
    for kind in ("adamw", "muon", "adafactor"):
        tx = optimizer.build(dataclasses.replace(config, kind=kind), steps=1)
        none = jax.tree.map(np.zeros_like, adapters)
        updates, _ = tx.update(none, tx.init(adapters), adapters)
        moved = optax.apply_updates(adapters, updates)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, 0.95 * y, rtol=1e-6), moved, adapters)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (["visoin/"], r"'visoin/' matches no trained parameter; trained is llm, vision, for example llm/mlp"),
        (["llm/mlp", "whisper/"], r"'whisper/' matches no trained parameter; trained is llm, vision"),
        (["mlp/kernel"], r"'mlp/kernel' matches no trained parameter"),
        (
            ["llm/", "llm/norm"],
            r"all that 'llm/norm' matches has the rate of a pattern before it; put it first",
        ),
    ],
)
def test_a_rate_of_no_trained_parameter_is_an_error_that_names_them(rates: list[str], message: str) -> None:
    config = OptimizerConfig(part_rates=tuple(PartRate(pattern, 0.1) for pattern in rates))
    with pytest.raises(OlaError, match=f"^part_rates: {message}"):
        state.create(PARAMS, ("llm/", "vision/"), optimizer.build(config, steps=1))


def test_frozen_parameters_keep_their_dtype_and_have_no_optimizer_state() -> None:
    tx = optimizer.build(OptimizerConfig(), steps=1)
    train_state = state.create(PARAMS, ("llm/",), tx)
    assert set(train_state.trainable) == {"llm/mlp/kernel", "llm/norm/scale"}
    assert train_state.frozen["vision/mlp/kernel"].dtype == np.float16
    assert "vision/mlp/kernel" not in str(train_state.opt_state)
    assert train_state.params["vision"]["mlp"]["kernel"].shape == (2, 2)


def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_parts() -> None:
    with pytest.raises(OlaError, match=r"'visoin/' matches no parameter; the model has llm, vision, whisper"):
        state.split_params(PARAMS, ("visoin/",))


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


def test_muon_takes_queries_keys_and_values_of_a_fused_kernel_apart() -> None:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    config = OptimizerConfig(kind="muon", learning_rate=0.1, warmup_ratio=0.0, momentum_dtype="bfloat16")
    tx = optimizer.build(config, steps=3)

    def three_updates(grads: list[dict[str, np.ndarray]]) -> tuple[list[dict], optax.OptState]:
        params = jax.tree.map(np.zeros_like, grads[0])
        now, found = tx.init(params), []
        for each in grads:
            updates, now = tx.update(each, now, params)
            found.append(jax.tree.map(np.asarray, updates))
        return found, now

    # One part far larger than the others: as one matrix it would take all of the step.
    parts = [{"q": normal(2, 8, 8), "k": 100 * normal(2, 8, 8), "v": normal(2, 8, 8)} for _ in range(3)]
    fused = [{"vision/blocks/attn/qkv/kernel": np.concatenate(list(p.values()), axis=-1)} for p in parts]
    apart = [{f"vision/blocks/attn/{n}/kernel": x for n, x in p.items()} for p in parts]
    actual, opt_state = three_updates(fused)
    expected, _ = three_updates(apart)
    for a, e in zip(actual, expected, strict=True):
        together = np.concatenate([e[f"vision/blocks/attn/{n}/kernel"] for n in "qkv"], axis=-1)
        np.testing.assert_allclose(a["vision/blocks/attn/qkv/kernel"], together, rtol=1e-4, atol=1e-6)
    # The momentum has the kernel's shape, and so its split over a mesh.
    shapes = {x.shape for x in jax.tree.leaves(opt_state) if x.ndim > 2}
    assert shapes == {(2, 8, 24)}


def test_muon_takes_each_tap_of_a_convolution_as_a_matrix_and_leaves_adapters_to_adam() -> None:
    axes = optimizer.muon_axes(
        dict.fromkeys(
            [
                "whisper/conv1/kernel",
                "vision/patch_embed/kernel",
                "vision/blocks/attn/qkv/bias",
                "lora/llm/layers/mlp/up_proj/kernel/a",
                "lora/llm/layers/mlp/up_proj/kernel/b",
            ]
        )
    )
    of = lambda *inputs: optax.contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=(-1,))
    assert list(axes.values()) == [of(-2), of(-2), None, None, None]
