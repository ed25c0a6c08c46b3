"""int8 weights of the decoder: their error, and what stays as it was."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ola_jax import sharding
from ola_jax.batch import OlaBatch
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.models.quantization import abstract_quantized, is_quantizable, quantize, quantize_weights
from ola_jax.sharding import MeshConfig
from tests import golden, parity, tiny
from tests.released import released


def test_an_element_is_off_by_half_a_step_at_most() -> None:
    x = np.random.default_rng(0).normal(size=(5, 40, 7)).astype(np.float32) * 10.0 ** np.arange(-3, 4)
    x[:, :, 3] = 0
    whole, scale = quantize(jnp.asarray(x), axis=1)
    assert (whole.dtype, scale.shape) == (jnp.int8, (5, 7))
    largest = np.abs(x).max(axis=1)
    error = np.abs(np.asarray(whole, np.float32) * np.asarray(scale)[:, None] - x).max(axis=1)
    assert (error <= 0.5001 * largest / 127).all()
    assert (np.asarray(whole)[:, :, 3] == 0).all()


def test_only_matrices_of_the_decoder_are_int8_and_a_second_time_changes_nothing() -> None:
    params = tiny.params()
    made = traverse_util.flatten_dict(quantize_weights(params), sep="/")
    flat = traverse_util.flatten_dict(params, sep="/")
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
    int8 = {path for path, leaf in made.items() if leaf.dtype == jnp.int8}
    assert {path.split("/")[-2] for path in int8} == set(matrices)
    assert all(path.startswith("llm/") for path in int8)
    for path in set(flat) - int8:
        np.testing.assert_array_equal(made[path], flat[path])
    again = traverse_util.flatten_dict(quantize_weights(quantize_weights(params)), sep="/")
    for path, leaf in made.items():
        np.testing.assert_array_equal(again[path], leaf)
    expected = traverse_util.flatten_dict(nn.unbox(abstract_quantized(abstract_params(tiny.CONFIG))), sep="/")
    described = lambda tree: {path: (leaf.shape, jnp.dtype(leaf.dtype)) for path, leaf in tree.items()}
    assert described(made) == described(expected)
    assert {path for path in flat if is_quantizable(path)} == int8


def logits(model: Ola, params: dict, batch: OlaBatch) -> np.ndarray:
    out = jax.jit(lambda params, batch: model.apply({"params": params}, batch))(params, batch)
    return np.asarray(out)[np.asarray(batch.segments) > 0]


def test_logits_of_the_goldens_are_close() -> None:
    r, processor = released(), parity.processor("infer")
    int8 = quantize_weights(r.params)
    for name in ("infer_text", "infer_image"):
        batch = processor(parity.records(name), root=str(golden.VISIBLE))
        exact, near = (logits(Ola(r.config), params, batch) for params in (r.params, int8))
        assert 1e-4 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.06
        assert (near.argmax(-1) == exact.argmax(-1)).mean() > 0.9


@pytest.mark.parametrize("config", [MeshConfig(tensor=2), MeshConfig(fsdp=2, tensor=2)])
def test_on_a_mesh_the_logits_are_those_of_one_device(config: MeshConfig) -> None:
    params, batch, model = quantize_weights(tiny.params()), tiny.make_batch(2, seed=0), Ola(tiny.CONFIG)
    mesh = sharding.make_mesh(config)
    places = sharding.parameter_shardings(abstract_quantized(abstract_params(tiny.CONFIG)), mesh)
    alone = logits(model, params, batch)
    with jax.set_mesh(mesh):
        split = jax.device_put(params, places)
        np.testing.assert_allclose(logits(model, split, batch), alone, atol=2e-5)
    up = split["llm"]["layers"]["mlp"]["up_proj"]
    shard = lambda x: x.addressable_shards[0].data.shape
    assert shard(up["scale"])[-1] == up["scale"].shape[-1] // 2
    assert shard(up["kernel"])[-1] == up["kernel"].shape[-1] // 2
