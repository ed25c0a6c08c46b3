"""Other downsampling than Ola's, and one audio encoder alone: values, gradients on a mesh, FLOPs, answers."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.config import OlaConfig
from ola_jax.models import ola, projectors
from ola_jax.models.ola import Ola, init_params
from ola_jax.models.projectors import VisionProjector
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step
from tests import tiny
from tests.models.test_flops import traced

VARIANTS = {
    "none_beats": dataclasses.replace(tiny.CONFIG, downsampling="none", whisper=None, beats_chunk=200),
    "conv_whisper": dataclasses.replace(tiny.CONFIG, downsampling="conv", beats=None),
}
PATCHES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 6)), jnp.float32)


@functools.cache
def params(name: str) -> dict:
    return jax.tree.map(np.asarray, init_params(VARIANTS[name], seed=0))


@pytest.mark.parametrize(
    ("downsampling", "tokens"), [("local_global", 2), ("mean", 2), ("conv", 2), ("none", 8)]
)
def test_tokens_and_products_of_each_kind(downsampling: str, tokens: int) -> None:
    model = VisionProjector(10, downsampling=downsampling)
    weights = model.init(jax.random.key(0), PATCHES)
    assert model.apply(weights, PATCHES).shape == (3, tokens, 10)
    flops = projectors.vision_flops(PATCHES.size // 6, 6, 10, downsampling)
    assert flops == traced(lambda x: model.apply(weights, x), PATCHES)


@pytest.mark.parametrize("downsampling", ["mean", "conv", "none"])
def test_groups_are_the_four_neighbours(downsampling: str) -> None:
    model = VisionProjector(10, downsampling=downsampling)
    weights = nn.unbox(model.init(jax.random.key(1), PATCHES))
    own = jax.tree.map(np.asarray, weights["params"])
    linear = lambda x, name: np.asarray(x) @ own[name]["kernel"] + own[name]["bias"]
    x = linear(PATCHES, "proj1")
    if downsampling == "mean":
        x = x.reshape(3, 2, 4, 10).mean(axis=2)
    elif downsampling == "conv":
        conv = own["pooler"]["conv"]
        kernel = conv["kernel"].reshape(4, 10, 10)  # a filter of 2x2
        x = np.einsum("bgnd,nde->bge", x.reshape(3, 2, 4, 10), kernel) + conv["bias"]
    expected = linear(jax.nn.gelu(x, approximate=False), "proj2")
    np.testing.assert_allclose(model.apply(weights, PATCHES), expected, rtol=1e-4, atol=1e-5)


def test_a_model_has_the_parts_of_its_config() -> None:
    none, conv = (ola.parameter_shapes(config) for config in VARIANTS.values())
    parts = lambda shapes: {path.split("/")[0] for path in shapes}
    assert parts(none) == {"llm", "vision", "vision_projector", "beats", "speech_projector"}
    assert parts(conv) == {"llm", "vision", "vision_projector", "whisper", "speech_projector"}
    assert [path for path in none if "pooler" in path] == []
    assert [path for path in conv if "pooler" in path] == [
        "vision_projector/pooler/conv/bias",
        "vision_projector/pooler/conv/kernel",
    ]
    width = tiny.CONFIG.speech_stack * 32  # of one encoder
    assert none["speech_projector/linear1/kernel"].shape == (width, 64)
    assert conv["speech_projector/linear1/kernel"].shape == (width, 64)


def test_beats_alone_has_the_chunks_of_its_setting() -> None:
    alone = VARIANTS["none_beats"]
    assert alone.chunk_samples == tiny.CONFIG.chunk_samples
    assert (alone.beats_frames, alone.chunk_tokens) == (tiny.CONFIG.beats_frames, 9)
    assert OlaConfig(whisper=None).chunk_tokens == OlaConfig().beats_frames // 10
    assert set(ola.flops(alone, tiny.BUDGET)) == {
        "llm",
        "vision",
        "vision_projector",
        "beats",
        "speech_projector",
    }


def losses(name: str, mesh_config: MeshConfig) -> list[float]:
    """Losses of three steps that train the projectors and adapters of the decoder."""
    config, adapters = VARIANTS[name], LoraConfig(rank=4)
    trainable = ("vision_projector/", "speech_projector/")
    tx = optimizer.build(OptimizerConfig(learning_rate=1e-2, warmup_ratio=0.0, eps=1e-4), steps=10)
    mesh = sharding.make_mesh(mesh_config)
    with jax.set_mesh(mesh):
        _, shardings = state.abstract_state(config, trainable, tx, mesh=mesh, adapters=adapters)
        train_state = state.create(params(name), trainable, tx, shardings=shardings, adapters=adapters)
        step = make_train_step(Ola(config), tx, shardings=shardings, adapters=adapters)
        found = []
        for _ in range(3):
            train_state, metrics = step(train_state, sharding.global_batch(tiny.make_batch(4, 0), mesh))
            found.append(float(metrics["loss"]))
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_with_adapters_on_a_mesh_equal_those_of_one_device(name: str) -> None:
    expected = losses(name, MeshConfig())
    assert expected[-1] < expected[0]
    mesh = MeshConfig(fsdp=2, tensor=2, context=2)
    np.testing.assert_allclose(losses(name, mesh), expected, rtol=1e-4)
