"""The next token, by settings that are arrays: against the plain form of one answer, and one by one."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.generate.choosing import Settings, next_tokens, settings
from ola_jax.generate.sampling import SamplingConfig

LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]], np.float32))
NONE = np.zeros(LOGITS.shape, bool)


@jax.jit
def choose(logits: jax.Array, generated: jax.Array, keys: jax.Array, chosen_by: Settings) -> jax.Array:
    """One token of an answer by each key."""
    one = lambda key: next_tokens(logits, generated, key[None], chosen_by)[0]
    return jax.vmap(one)(keys)


def ids(logits: np.ndarray, generated: np.ndarray, count: int, config: SamplingConfig) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(choose(logits, generated, keys, settings(config, logits.shape[1])))


def drawn(config: SamplingConfig, generated: np.ndarray = NONE) -> dict[int, float]:
    """Shares of the ids drawn."""
    found = collections.Counter(ids(LOGITS, generated, 2000, config).tolist())
    return {i: n / 2000 for i, n in found.items()}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert drawn(SamplingConfig()) == {0: 1.0}


def test_temperature_one_draws_by_probability() -> None:
    shares = drawn(SamplingConfig(temperature=1.0))
    np.testing.assert_allclose([shares[i] for i in range(5)], [0.4, 0.3, 0.2, 0.06, 0.04], atol=0.04)


def test_low_temperature_sharpens() -> None:
    assert drawn(SamplingConfig(temperature=0.1))[0] > 0.9


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(drawn(SamplingConfig(temperature=1.0, top_k=2))) == {0, 1}


def test_top_p_keeps_the_smallest_set_of_that_probability() -> None:
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.6))) == {0, 1}
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.75))) == {0, 1, 2}
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.01))) == {0}


def test_repetition_penalty_touches_generated_ids_only() -> None:
    generated = NONE.copy()
    generated[0, 0] = True
    assert drawn(SamplingConfig(repetition_penalty=2.0), generated) == {1: 1.0}
    assert drawn(SamplingConfig(repetition_penalty=2.0)) == {0: 1.0}


def test_min_p_keeps_those_of_a_share_of_the_largest() -> None:
    assert set(drawn(SamplingConfig(temperature=1.0, min_p=0.4))) == {0, 1, 2}
    assert set(drawn(SamplingConfig(temperature=1.0, min_p=0.6))) == {0, 1}
    assert set(drawn(SamplingConfig(temperature=1.0, min_p=1.0))) == {0}
    # After top-k and the temperature, as in transformers.
    assert set(drawn(SamplingConfig(temperature=2.0, min_p=0.6, top_k=3))) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 1e-300, 1e-30])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    assert drawn(SamplingConfig(temperature=temperature)) == {0: 1.0}


EXTREME = [
    SamplingConfig(temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k, repetition_penalty=penalty)
    for temperature in (0.0, 1e-38, 1.0, 1e38, 1e300)
    for top_p, min_p in ((1e-45, 0.0), (0.5, 1e-300), (1.0, 1.0))
    for top_k in (0, 1, 4, 10**20)
    for penalty in (1e-300, 1e-38, 1.0, 1e38, 1e300)
]


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_padding_of_the_vocabulary_is_never_chosen(scale: float) -> None:
    logits, generated = LOGITS[:, ::-1] * np.float32(scale), ~NONE  # the padding would be the likeliest
    for config in EXTREME[:: 1 if scale == 1.0 else 11]:
        config = dataclasses.replace(config, vocab_size=3)
        assert ids(logits, generated, 20, config).max() < 3, config


def plain(logits: jax.Array, generated: jax.Array, key: jax.Array, config: SamplingConfig) -> jax.Array:
    """The definition, for one answer and settings that are known when it is compiled."""
    if config.repetition_penalty != 1.0:
        punished = jnp.where(
            logits > 0, logits / config.repetition_penalty, logits * config.repetition_penalty
        )
        logits = jnp.where(generated, punished, logits)
    logits = jnp.where(jnp.arange(logits.shape[1]) < config.vocab_size, logits, -jnp.inf)
    if config.temperature == 0:
        return logits.argmax(axis=-1)
    logits = (logits - logits.max(axis=-1, keepdims=True)) / config.temperature
    if config.top_k:
        threshold = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if config.top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        kept = (jnp.cumsum(probability, axis=-1) - probability < config.top_p).at[:, 0].set(True)
        threshold = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if config.min_p:
        logits = jnp.where(logits < np.log(config.min_p), -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1)


MIXED = [
    SamplingConfig(),
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.7, top_k=5),
    SamplingConfig(temperature=1.3, top_p=0.8, repetition_penalty=1.3),
    SamplingConfig(temperature=0.9, min_p=0.05),
    SamplingConfig(temperature=2.0, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=0.8),
    SamplingConfig(repetition_penalty=1.05),
]
MIXED = [dataclasses.replace(config, vocab_size=90) for config in MIXED]


def test_slots_get_what_the_plain_form_gives_each_alone() -> None:
    rng = np.random.default_rng(0)
    each = [settings(config, 100) for config in MIXED]
    together: Settings = jax.tree.map(lambda *x: jnp.concatenate(x), *each)
    together_or_alone = jax.jit(next_tokens)
    reference = [jax.jit(functools.partial(plain, config=config)) for config in MIXED]
    seeds = jax.vmap(jax.random.key)(jnp.arange(len(MIXED)))
    for step in range(40):
        logits = jnp.asarray(rng.normal(size=(len(MIXED), 100)) * 4, jnp.float32)
        generated = jnp.asarray(rng.random((len(MIXED), 100)) < 0.3)
        keys = jax.vmap(jax.random.fold_in, (0, None))(seeds, step)
        chosen = together_or_alone(logits, generated, keys, together).tolist()
        rows = [(logits[i : i + 1], generated[i : i + 1]) for i in range(len(MIXED))]
        assert chosen == [int(f(*row, key)[0]) for f, row, key in zip(reference, rows, keys, strict=True)]
        alone = [
            together_or_alone(*row, key[None], s)[0] for row, key, s in zip(rows, keys, each, strict=True)
        ]
        assert chosen == [int(token) for token in alone]
