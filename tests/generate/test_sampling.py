import dataclasses

import pytest

from ola_jax.errors import OlaError
from ola_jax.generate.sampling import SamplingConfig, from_generation_config, with_options


def test_generation_config_is_read_as_transformers_reads_it() -> None:
    values = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1}
    values |= {"eos_token_id": [7, 5]}
    expected = SamplingConfig(temperature=0.7, top_k=20, top_p=0.8, min_p=0.1, stop_ids=(7, 5), vocab_size=9)
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
    {"min_p": 1.5},
    {"min_p": "0.1"},
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
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"repetition_penalty": float("nan")},
    ],
)
def test_impossible_options_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(OlaError, match=next(iter(bad))):
        SamplingConfig(**bad)


def test_options_that_are_given_take_the_place_of_others() -> None:
    before = SamplingConfig(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, stop_ids=(1,), vocab_size=9)
    assert with_options(before) == before
    changed = with_options(before, temperature=0, top_k=0, top_p=1, min_p=0, repetition_penalty=2)
    assert changed == SamplingConfig(repetition_penalty=2.0, stop_ids=(1,), vocab_size=9)
    assert isinstance(changed.temperature, float)
