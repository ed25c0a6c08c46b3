"""Weights for an engine: int8 ones are read one matrix at a time, on a mesh each device reads its shards."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.generate import loading
from ola_jax.generate.assistant import Assistant
from ola_jax.generate.engine import Engine, EngineConfig, Request
from ola_jax.models.quantization import quantize_weights


@pytest.mark.parametrize("tensor", [1, 2])
def test_int8_weights_are_those_of_the_whole_and_are_read_one_by_one(
    small_dir: pathlib.Path, tensor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def load(*args: Any, **how: Any) -> Any:
        found = checkpoint.load(*args, **how)
        read.append(sum(leaf.nbytes for leaf in jax.tree.leaves(found[1])))
        return found

    monkeypatch.setattr(loading, "load", load)
    config = EngineConfig(weights="int8", tensor=tensor)
    found = loading.load_weights(small_dir, config)
    expected = quantize_weights(checkpoint.load(small_dir)[1])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert len(read) == 9
    assert read[:-1] == sorted(read[:-1], reverse=True)
    if tensor > 1:
        kernel = found["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
        assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // tensor


def test_int8_is_an_option_of_an_assistant(small_dir: pathlib.Path) -> None:
    usual = Assistant.from_pretrained(small_dir).ask("Hi", max_new_tokens=12, seed=1)
    int8 = Assistant.from_pretrained(small_dir, weights="int8", cache="int8")
    answer = int8.ask("Hi", max_new_tokens=12, seed=1)
    assert len(answer.ids) == len(usual.ids)
    assert int8.params["llm"]["lm_head"]["kernel"].dtype == np.int8
    assert int8.chat().ask("Hi", max_new_tokens=12, seed=1).ids == answer.ids


def test_separate_layers_give_the_same_answers(small_dir: pathlib.Path) -> None:
    stacked = Engine.from_pretrained(small_dir, EngineConfig(slots=1, length=128, prefill_chunk=32))
    separate = Engine.from_pretrained(
        small_dir, EngineConfig(slots=1, length=128, prefill_chunk=32, separate_layers=True)
    )
    made = separate._device._params["llm"]["layers"]
    kernel = stacked._device._params["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
    for number, part in enumerate(kernel):
        np.testing.assert_array_equal(made[str(number)]["mlp"]["up_proj"]["kernel"], part)
    answers = []
    for engine in (stacked, separate):
        sample = engine.processor.sample({"conversations": [{"from": "human", "value": "Hi"}]})
        handle = engine.submit(Request(sample, engine.sampling, 12))
        engine.close()
        answers.append(handle.result(0).ids)
    assert answers[0] == answers[1]


def test_a_mesh_that_cannot_be_is_refused_before_anything_is_read(small_dir: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="key/value heads cannot be divided by tensor=8"):
        loading.load_weights(small_dir, EngineConfig(tensor=8))
    with pytest.raises(OlaError, match="tensor is 0"):
        EngineConfig(weights="int8", cache="int8", tensor=0)
