import collections
import dataclasses

import jax
import numpy as np
import pytest

from ola_jax.errors import OlaError
from ola_jax.generate.sampling import SamplingConfig, from_generation_config, next_token

LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]], np.float32))
NONE = np.zeros(LOGITS.shape, bool)


def drawn(config: SamplingConfig, generated: np.ndarray = NONE) -> dict[int, float]:
    """Shares of the ids drawn."""
    keys = jax.random.split(jax.random.key(0), 2000)
    ids = jax.vmap(lambda key: next_token(LOGITS, generated, key, config)[0])(keys)
    return {i: n / 2000 for i, n in collections.Counter(np.asarray(ids).tolist()).items()}


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


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 1e-300, 1e-30])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    assert drawn(SamplingConfig(temperature=temperature)) == {0: 1.0}


EXTREME = [
    SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty)
    for temperature in (0.0, 1e-38, 1.0, 1e38, 1e300)
    for top_p in (1e-45, 0.5, 1.0)
    for top_k in (0, 1, 4, 10**20)
    for penalty in (1e-300, 1e-38, 1.0, 1e38, 1e300)
]


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_padding_of_the_vocabulary_is_never_chosen(scale: float) -> None:
    logits, generated = LOGITS[:, ::-1] * np.float32(scale), ~NONE  # the padding would be the likeliest
    for config in EXTREME[:: 1 if scale == 1.0 else 11]:
        config = dataclasses.replace(config, vocab_size=3)
        keys = jax.random.split(jax.random.key(0), 20)
        choose = jax.vmap(lambda key, config=config: next_token(logits, generated, key, config)[0])
        assert int(choose(keys).max()) < 3, config


def test_generation_config_is_read_as_transformers_reads_it() -> None:
    values = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [7, 5]}
    expected = SamplingConfig(temperature=0.7, top_k=20, top_p=0.8, stop_ids=(7, 5), vocab_size=9)
    assert from_generation_config(values, 9) == expected
    greedy = from_generation_config({"temperature": 0.7, "eos_token_id": 3}, 9)
    assert (greedy.temperature, greedy.stop_ids) == (0.0, (3,))


def test_null_is_the_default_and_no_top_k_is_that_of_transformers() -> None:
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "eos_token_id", "num_beams", "min_p")
    nothing = SamplingConfig(temperature=1.0, vocab_size=9)
    assert from_generation_config({"do_sample": True} | dict.fromkeys(names), 9) == nothing
    assert from_generation_config({"do_sample": True, "top_k": 0}, 9) == nothing
    assert from_generation_config({"do_sample": True}, 9) == dataclasses.replace(nothing, top_k=50)
    assert from_generation_config(dict.fromkeys(("do_sample", *names)), 9).temperature == 0.0


def test_fields_that_change_no_answer_are_no_matter() -> None:
    values = {"max_length": 20, "pad_token_id": 99, "transformers_version": "5", "num_beams": 1, "min_p": 0.0}
    values |= {"typical_p": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": [], "length_penalty": 2.0}
    assert from_generation_config(values, 9) == from_generation_config({}, 9)


BAD_FILES = [
    {"do_sample": "false"},
    {"do_sample": 1},
    {"temperature": "hot"},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": -0.5},
    {"temperature": True},
    {"temperature": 10**400},
    {"top_k": 1.5},
    {"top_k": -1},
    {"top_k": [20]},
    {"top_p": 0},
    {"top_p": 1.01},
    {"top_p": "0.8"},
    {"repetition_penalty": 0},
    {"repetition_penalty": float("inf")},
    {"eos_token_id": "<|im_end|>"},
    {"eos_token_id": True},
    {"eos_token_id": 9},
    {"eos_token_id": -1},
    {"eos_token_id": [3, None]},
    {"eos_token_id": [[3]]},
    {"eos_token_id": 3.0},
    {"num_beams": 4},
    {"min_p": 0.05},
    {"typical_p": 0.9},
    {"penalty_alpha": 0.6},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 5},
    {"suppress_tokens": [1, 2]},
    {"bad_words_ids": [[1]] * 1000},
    {"forced_eos_token_id": 3},
    {"stop_strings": ["."]},
]


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: str(bad)[:40])
def test_a_generation_config_that_asks_for_what_is_not_done_is_refused_by_name(bad: dict) -> None:
    with pytest.raises(OlaError, match=rf"^DIR/file: {next(iter(bad))} ") as caught:
        from_generation_config({"do_sample": True} | bad, 9, "DIR/file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"top_k": -2},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"repetition_penalty": float("nan")},
    ],
)
def test_impossible_options_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(OlaError, match=next(iter(bad))):
        SamplingConfig(**bad)
