"""FLOPs of a step: what its gradients need of those of the forward pass."""

import dataclasses
import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.batch import Budget
from ola_jax.config import Remat
from ola_jax.models import ola, qwen2, remat
from ola_jax.training import flops, state
from ola_jax.training.lora import LoraConfig
from tests import tiny

BUDGET = Budget(tokens=64, windows=3, window_patches=16, audio_chunks=2)
TOKENS = 512  # more than attention on a CPU computes at once


def count_products(jaxpr: jax.extend.core.Jaxpr) -> float:
    """FLOPs of the products with weights, and of their gradients; those of attention have batch axes."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 0 if batched else 2 * math.prod(sizes) * equation.outvars[0].aval.size
        total += sum(map(count_products, jax.extend.core.jaxprs_in_params(equation.params)))
    return total


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
    once, step = (
        ola.flops(tiny.CONFIG, BUDGET),
        flops.count_step(tiny.CONFIG, BUDGET, rows=5, trainable=trainable),
    )
    for part, factor in times.items():
        np.testing.assert_allclose(step[part], 5 * factor * once[part], err_msg=part)


def test_patterns_count_by_the_parameters_they_match() -> None:
    once = ola.flops(tiny.CONFIG, BUDGET)
    step = lambda *trainable: flops.count_step(tiny.CONFIG, BUDGET, rows=1, trainable=trainable)
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
    once, adapters = ola.flops(tiny.CONFIG, BUDGET), LoraConfig(rank=2)
    step = flops.count_step(tiny.CONFIG, BUDGET, rows=5, trainable=("vision_projector/",), adapters=adapters)
    sizes = {p: x.shape for p, x in state.split_params(tiny.params(), ())[1].items() if p.endswith("/kernel")}
    llm = {p: shape for p, shape in sizes.items() if p.startswith("llm/")}
    weights = sum(math.prod(shape) for shape in llm.values())
    narrow = sum(
        2 * shape[0] * (shape[1] + shape[2]) for p, shape in llm.items() if p.startswith("llm/layers/")
    )
    assert step["llm"] == pytest.approx(5 * (2 + 3 * narrow / weights) * once["llm"])
    # Not the model's: the full gradient of each adapted kernel.
    adapted = sum(math.prod(shape) for p, shape in llm.items() if p.startswith("llm/layers/"))
    again = flops.count_recomputed(
        tiny.CONFIG, BUDGET, rows=2, trainable=("vision_projector/",), adapters=adapters
    )
    assert again == pytest.approx(2 * once["llm"] * adapted / weights)
    # In an encoder, gradients flow through what comes after it.
    vision_adapters = LoraConfig(rank=2, pattern="vision/.*/kernel")
    step = flops.count_step(
        tiny.CONFIG, BUDGET, rows=1, trainable=("speech_projector/",), adapters=vision_adapters
    )
    assert 2 * once["vision"] < step["vision"] < 3 * once["vision"]
    assert step["vision_projector"] == pytest.approx(2 * once["vision_projector"])
    full = dataclasses.replace(tiny.CONFIG, remat="full")
    count = functools.partial(flops.count_recomputed, full, BUDGET, rows=1, trainable=("speech_projector/",))
    again = count(adapters=vision_adapters)
    assert again > count() + once["vision"]


@pytest.mark.parametrize("remat", remat.POLICIES)
def test_recomputed_products_are_those_of_the_differentiated_layers(remat: Remat) -> None:
    llm = dataclasses.replace(tiny.CONFIG.llm, num_layers=1)
    model = qwen2.Qwen2(llm, remat=remat, attention="xla")
    layout = jnp.zeros((1, TOKENS), jnp.int32), jnp.ones((1, TOKENS), jnp.int32)
    x = jnp.zeros((1, TOKENS, llm.hidden_size))
    params = jax.eval_shape(model.init, jax.random.key(0), x, *layout)
    total = lambda params, x: model.apply(params, x, *layout).sum()
    jaxpr = jax.make_jaxpr(jax.grad(total, (0, 1)))(params, x).jaxpr
    attention = 4 * TOKENS**2 * llm.num_heads * llm.head_dim / 2
    forward = qwen2.flops(llm, TOKENS) - qwen2.logits_flops(llm, TOKENS) - attention
    again = qwen2.recomputed_flops(llm, TOKENS, remat) - (attention if remat == "full" else 0)
    assert count_products(jaxpr) == pytest.approx(3 * forward + again)
    # Attention in blocks is a loop forward and one backward.
    assert str(jaxpr).count(" while[") == (3 if remat == "full" else 2)


def test_recomputed_layers_count_apart() -> None:
    full = dataclasses.replace(tiny.CONFIG, remat="full")
    assert flops.count_recomputed(tiny.CONFIG, BUDGET, rows=2, trainable=("llm/",)) == 0
    again = flops.count_recomputed(full, BUDGET, rows=2, trainable=("llm/",))
    assert again == 2 * qwen2.recomputed_flops(full.llm, BUDGET.tokens, "full")
    with_encoder = flops.count_recomputed(full, BUDGET, rows=2, trainable=("llm/", "vision/"))
    assert with_encoder == pytest.approx(again + 2 * ola.flops(full, BUDGET)["vision"])
