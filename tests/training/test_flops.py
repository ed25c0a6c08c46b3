"""Operations counted from sizes against those of the traced program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.batch import Budget
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.training import flops, state
from ola_jax.training.lora import LoraConfig
from tests import tiny

BUDGET = Budget(tokens=64, windows=3, window_patches=16, audio_chunks=2)


def traced(function: object, *arguments: object) -> float:
    """FLOPs of all products and convolutions in a function's jaxpr."""
    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def count(jaxpr: jax.extend.core.Jaxpr) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * eqn.outvars[0].aval.size
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval  # taps, in / groups, out
            frames = eqn.outvars[0].aval.size / kernel.shape[-1]
            total += 2 * kernel.size * frames
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner_jaxpr = getattr(value, "jaxpr", value)
            if hasattr(inner_jaxpr, "eqns"):
                total += times * count(inner_jaxpr)
    return total


def parts() -> dict[str, float]:
    config, params = tiny.CONFIG, tiny.params()
    model = Ola(config).bind({"params": params})
    z = jnp.zeros
    patches, chunks = (BUDGET.windows, BUDGET.window_patches), BUDGET.audio_chunks
    hidden = z((1, BUDGET.tokens, config.llm.hidden_size))
    ints = z((1, BUDGET.tokens), jnp.int32)
    speech = config.whisper.hidden_size + config.beats.hidden_size
    return {
        "llm": traced(lambda x: model.llm.logits(model.llm(x, ints, ints)), hidden),
        "vision": traced(
            lambda x: model.vision(x, z(patches, jnp.int32), z((*patches, 4), jnp.int32)), z((*patches, 768))
        ),
        "vision_projector": traced(model.vision_projector, z((*patches, config.vision.hidden_size))),
        "whisper": traced(model.whisper, z((chunks, 2 * config.whisper.num_positions, 80))),
        "beats": traced(model.beats, z((chunks, 198, 128))),
        "speech_projector": traced(model.speech_projector, z((chunks, config.whisper.num_positions, speech))),
    }


def test_each_part_is_counted_as_its_program_computes_it() -> None:
    expected, actual = parts(), flops.forward(tiny.CONFIG, BUDGET)
    llm = tiny.CONFIG.llm
    heads = llm.num_heads * llm.head_dim
    actual["llm"] += llm.num_layers * 4 * BUDGET.tokens**2 * heads / 2  # this form computes both halves
    # The convolution of an even number of taps computes one frame more than it keeps; gates of 8 units.
    tolerance = {"beats": 0.05}
    assert set(actual) == set(expected)
    for part, value in expected.items():
        np.testing.assert_allclose(actual[part], value, rtol=tolerance.get(part, 1e-6), err_msg=part)


@pytest.mark.parametrize(
    ("trainable", "times"),
    [
        (("vision_projector/",), {"llm": 2, "vision": 1, "vision_projector": 3, "whisper": 1}),
        (
            ("llm/", "vision_projector/"),
            {"llm": 3, "vision": 1, "vision_projector": 3, "speech_projector": 1},
        ),
        (("vision/",), {"llm": 2, "vision": 3, "vision_projector": 2, "beats": 1}),
        ((".*",), {"llm": 3, "vision": 3, "whisper": 3, "speech_projector": 3}),
    ],
)
def test_a_step_counts_what_gradients_need(trainable: tuple[str, ...], times: dict[str, int]) -> None:
    once, step = flops.forward(tiny.CONFIG, BUDGET), flops.step(tiny.CONFIG, BUDGET, 5, trainable)
    for part, factor in times.items():
        np.testing.assert_allclose(step[part], 5 * factor * once[part], err_msg=part)


def test_patterns_count_by_the_parameters_they_match() -> None:
    once = flops.forward(tiny.CONFIG, BUDGET)
    step = lambda *trainable: flops.step(tiny.CONFIG, BUDGET, 1, trainable)
    # Norms, marks and biases have no products of their own, but gradients flow to them.
    for part, value in step(r".*(norm|ln|bias|newline|begin|end)").items():
        np.testing.assert_allclose(value, 2 * once[part], err_msg=part)
    # A pattern that names the part within a group counts as the part.
    for pattern in ("(llm|vision)/", "llm/|vision/", "l{2}m/.*|v", ".*"):
        some = step(pattern)
        assert {part: some[part] for part in ("llm", "vision")} == {
            part: pytest.approx(3 * once[part]) for part in ("llm", "vision")
        }
    assert step("llm/layers/mlp_of_another_name") == once
    # Of the decoder's matrices half are trained: their gradients are half of a third.
    sizes = {p: x.size for p, x in state.split_params(tiny.params(), ())[1].items() if p.endswith("/kernel")}
    llm = sum(size for p, size in sizes.items() if p.startswith("llm/"))
    mlp = sum(size for p, size in sizes.items() if p.startswith("llm/layers/mlp/"))
    assert step("llm/layers/mlp/")["llm"] == pytest.approx((2 + mlp / llm) * once["llm"])


def test_adapters_count_their_own_products_and_not_those_of_the_kernels_they_change() -> None:
    once, adapters = flops.forward(tiny.CONFIG, BUDGET), LoraConfig(rank=2)
    step = flops.step(tiny.CONFIG, BUDGET, 5, ("vision_projector/",), adapters)
    sizes = {p: x.shape for p, x in state.split_params(tiny.params(), ())[1].items() if p.endswith("/kernel")}
    llm = {p: shape for p, shape in sizes.items() if p.startswith("llm/")}
    weights = sum(math.prod(shape) for shape in llm.values())
    narrow = sum(
        2 * shape[0] * (shape[1] + shape[2]) for p, shape in llm.items() if p.startswith("llm/layers/")
    )
    assert step["llm"] == pytest.approx(5 * (2 + 3 * narrow / weights) * once["llm"])
    # Not the model's: the whole gradient of each adapted kernel, and the logits again.
    logits = 2 * BUDGET.tokens * tiny.CONFIG.llm.hidden_size * tiny.CONFIG.llm.vocab_size
    adapted = sum(math.prod(shape) for p, shape in llm.items() if p.startswith("llm/layers/"))
    again = flops.recomputed(tiny.CONFIG, BUDGET, 2, ("vision_projector/",), adapters)
    assert again == pytest.approx(2 * (logits + once["llm"] * adapted / weights))
    # In an encoder, gradients flow through what comes after it.
    of_vision = LoraConfig(rank=2, pattern="vision/.*/kernel")
    step = flops.step(tiny.CONFIG, BUDGET, 1, ("speech_projector/",), of_vision)
    assert 2 * once["vision"] < step["vision"] < 3 * once["vision"]
    assert step["vision_projector"] == pytest.approx(2 * once["vision_projector"])
    full = dataclasses.replace(tiny.CONFIG, remat="full")
    again = flops.recomputed(full, BUDGET, 1, ("speech_projector/",), of_vision)
    assert again > flops.recomputed(full, BUDGET, 1, ("speech_projector/",)) + once["vision"]


def test_recomputed_layers_count_apart() -> None:
    config = dataclasses.replace(tiny.CONFIG, remat="full")
    once = flops.forward(config, BUDGET)["llm"]
    assert flops.recomputed(config, BUDGET, 2, ("llm/",)) == pytest.approx(2 * once)
    logits = 2 * BUDGET.tokens * config.llm.hidden_size * config.llm.vocab_size
    assert flops.recomputed(tiny.CONFIG, BUDGET, 2, ("llm/",)) == pytest.approx(2 * logits)


def test_the_released_model_has_its_known_number_of_parameters() -> None:
    sizes = jax.tree.map(lambda x: x.size, abstract_params(tiny.CONFIG)["llm"])
    matrices = sum(jax.tree.leaves(sizes)) - tiny.CONFIG.llm.vocab_size * tiny.CONFIG.llm.hidden_size
    linear = flops.forward(tiny.CONFIG, Budget(tokens=1))["llm"] / 2
    assert linear == pytest.approx(matrices, rel=0.02)  # but for norms and biases
