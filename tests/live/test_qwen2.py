import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from ola_jax.config import OlaConfig, Qwen2Config, YarnConfig
from ola_jax.convert.names import to_jax
from ola_jax.models.qwen2 import Behind, KVCache, Qwen2, empty_cache
from ola_jax.typing import Params
from tests.golden import assert_close
from tests.live.perturb import perturb

SIZES = [
    Qwen2Config(91, 48, 3, 4, 2, 72, 1e6, 1e-6),
    Qwen2Config(130, 60, 2, 6, 1, 44, 1e4, 1e-5),
    Qwen2Config(64, 96, 4, 3, 3, 160, 5e5, 1e-6),
]
LENGTHS = (19, 11)  # tokens of two samples
YARN = {
    "as Qwen2.5 advises": {"factor": 4.0, "original_max_position_embeddings": 32768},
    "own attention factor": {
        "factor": 2.5,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "mscale": {
        "factor": 8.0,
        "original_max_position_embeddings": 16384,
        "mscale": 0.8,
        "mscale_all_dim": 1.2,
        "truncate": False,
    },
    "limits that coincide": {"factor": 4.0, "original_max_position_embeddings": 8},
}


def torch_model(config: Qwen2Config, scaling: dict | None = None) -> transformers.Qwen2ForCausalLM:
    torch_config = transformers.Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        intermediate_size=config.intermediate_size,
        rope_theta=config.rope_theta,
        rope_scaling=scaling,
        max_position_embeddings=131_072,
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return perturb(transformers.Qwen2ForCausalLM(torch_config), seed=config.vocab_size)


def our_params(config: Qwen2Config, model: torch.nn.Module) -> Params:
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    return to_jax(OlaConfig(llm=config, vision=None, whisper=None, beats=None), tensors)["llm"]


def random_tokens(config: Qwen2Config) -> list[np.ndarray]:
    rng = np.random.default_rng(config.hidden_size)
    return [rng.integers(0, config.vocab_size, n).astype(np.int32) for n in LENGTHS]


@pytest.mark.parametrize("config", SIZES)
def test_packed_samples_have_the_logits_of_pytorch(config: Qwen2Config) -> None:
    model, samples = torch_model(config), random_tokens(config)
    params = our_params(config, model)
    tokens = np.concatenate(samples)[None]
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS])[None]
    segments = np.repeat(np.arange(1, 3, dtype=np.int32), LENGTHS)[None]

    def forward(ours: Qwen2, tokens: jax.Array, positions: jax.Array, segments: jax.Array) -> tuple:
        hidden = ours(ours.embed(tokens), positions, segments)
        return hidden, ours.logits(hidden)

    (hidden, logits), sown = jax.jit(
        lambda p, *inputs: Qwen2(config).apply(
            {"params": p}, *inputs, method=forward, mutable="intermediates"
        )
    )(params, tokens, positions, segments)
    layers = sown["intermediates"]["layers"]["output"][0]
    start = 0
    for tokens_of_one in samples:
        end = start + len(tokens_of_one)
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens_of_one).long()[None], output_hidden_states=True)
        for i in range(config.num_layers - 1):  # PyTorch returns the last one after the final norm
            assert_close(layers[i, :, start:end], expected.hidden_states[i + 1], None, f"layer {i}")
        assert_close(hidden[:, start:end], expected.hidden_states[-1], None, "hidden")
        assert_close(logits[:, start:end], expected.logits, None, "logits")
        start = end


@pytest.mark.parametrize("config", SIZES)
def test_decoding_with_a_cache_has_the_logits_of_pytorch(config: Qwen2Config) -> None:
    model, (tokens, _) = torch_model(config), random_tokens(config)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()[None]).logits

    assert_close(logits_with_a_cache(config, our_params(config, model), tokens), expected, None, "logits")


def logits_with_a_cache(config: Qwen2Config, params: Params, tokens: np.ndarray) -> np.ndarray:
    """Logits of tokens that are read in one piece, and then one by one."""

    def extend(ours: Qwen2, new: np.ndarray, start: np.ndarray, cache: KVCache) -> tuple:
        where = Behind(slot=jnp.int32(0), start=start, kept=jnp.ones(1, bool))
        hidden, cache = ours.extend(ours.embed(new), where, cache)
        return ours.logits(hidden), cache

    step = jax.jit(lambda p, new, start, c: Qwen2(config).apply({"params": p}, new, start, c, method=extend))
    cache, logits = empty_cache(config, 1, 24, dtype=np.float32), []
    for part in (slice(0, 14), *(slice(i, i + 1) for i in range(14, len(tokens)))):
        piece, cache = step(params, tokens[None, part], jnp.array([part.start]), cache)
        logits.append(piece)
    return np.concatenate(logits, axis=1)


@pytest.mark.parametrize("name", YARN)
def test_scaled_positions_of_a_long_text_have_the_logits_of_pytorch(name: str) -> None:
    base = SIZES[0]
    config = dataclasses.replace(base, rope_scaling=YarnConfig(**YARN[name]))
    model = torch_model(config, {"rope_type": "yarn", **YARN[name]})
    params, (tokens, _) = our_params(config, model), random_tokens(config)
    # The first tokens of a text and its last: distances of all lengths.
    positions = np.concatenate([np.arange(7), 101_000 + 2_500 * np.arange(12)]).astype(np.int32)
    with torch.no_grad():
        expected = model(
            torch.from_numpy(tokens).long()[None], position_ids=torch.from_numpy(positions).long()[None]
        ).logits

    def forward(ours: Qwen2, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return ours.logits(ours(ours.embed(tokens), positions, jnp.ones_like(positions)))

    run = lambda config: jax.jit(
        lambda p, *inputs: Qwen2(config).apply({"params": p}, *inputs, method=forward)
    )(params, tokens[None], positions[None])
    logits, plain = run(config), run(base)
    assert_close(logits, expected, None, "logits")
    assert np.abs(plain - logits).max() > 0.01 * np.abs(logits).max()  # the scaling matters

    with torch.no_grad():
        expected = model(torch.from_numpy(tokens).long()[None]).logits
    with_cache = logits_with_a_cache(config, params, tokens)
    assert_close(with_cache, expected, None, "logits with a cache")
