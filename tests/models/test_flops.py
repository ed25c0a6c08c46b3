"""FLOPs counted from sizes against those of the traced program."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.batch import Budget
from ola_jax.models import ola
from ola_jax.models.ola import Ola
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
    expected, actual = parts(), ola.flops(tiny.CONFIG, BUDGET)
    llm = tiny.CONFIG.llm
    heads = llm.num_heads * llm.head_dim
    actual["llm"] += llm.num_layers * 4 * BUDGET.tokens**2 * heads / 2  # this form computes both halves
    # The convolution of an even number of taps computes one frame more than it keeps; gates of 8 units.
    tolerance = {"beats": 0.05}
    assert set(actual) == set(expected)
    for part, value in expected.items():
        np.testing.assert_allclose(actual[part], value, rtol=tolerance.get(part, 1e-6), err_msg=part)


def test_a_token_meets_each_matrix_of_the_decoder_once() -> None:
    sizes = jax.tree.map(lambda x: x.size, ola.abstract_params(tiny.CONFIG)["llm"])
    matrices = sum(jax.tree.leaves(sizes)) - tiny.CONFIG.llm.vocab_size * tiny.CONFIG.llm.hidden_size
    linear = ola.flops(tiny.CONFIG, Budget(tokens=1))["llm"] / 2
    assert linear == pytest.approx(matrices, rel=0.02)  # but for norms and biases
