import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ola_jax.errors import OlaError
from ola_jax.generate.answer import Answered, answer
from ola_jax.generate.sampling import SamplingConfig, from_generation_config
from ola_jax.models.ola import Ola
from ola_jax.typing import Array
from tests import golden, parity
from tests.generate import small
from tests.released import released

GREEDY = dataclasses.replace(
    from_generation_config(
        released().generation_config, parity.processor("infer").tokenizer.get_vocab_size()
    ),
    temperature=0.0,
)


@pytest.mark.parametrize("name", parity.INFER)
def test_greedy_tokens_are_the_originals(name: str) -> None:
    case, processor = golden.case(name), parity.processor("infer")
    batch = processor(parity.records(name), root=str(golden.VISIBLE))
    for key, penalty in (("generated_ids", 1.0), ("generated_ids_gencfg", 1.05)):
        sampling = dataclasses.replace(GREEDY, repetition_penalty=penalty)
        out = answer(Ola(parity.config()), released().params, batch, processor.tokenizer, sampling, 24)
        assert out.ids[0] == case[key]
        if key == "generated_ids":
            # The golden's text was stripped of outer space, after special tokens were kept.
            assert out.texts[0] == processor.tokenizer.decode(case[key]).strip()


def test_rows_of_different_lengths_get_the_answers_they_get_alone() -> None:
    names, processor = ["infer_text", "infer_audio", "infer_image"], parity.processor("infer")
    together = processor([parity.records(name)[0] for name in names], root=str(golden.VISIBLE))
    sampling = dataclasses.replace(GREEDY, repetition_penalty=1.0)
    out = answer(Ola(parity.config()), released().params, together, processor.tokenizer, sampling, 24)
    assert out.ids == [golden.case(name)["generated_ids"] for name in names]


def test_text_is_handed_on_as_it_comes() -> None:
    processor = parity.processor("infer")
    batch = processor(parity.records("infer_two_images"), root=str(golden.VISIBLE))
    pieces: list[str] = []
    model, sampling = Ola(parity.config()), dataclasses.replace(GREEDY, repetition_penalty=1.0)
    out = answer(model, released().params, batch, processor.tokenizer, sampling, 24, write=pieces.append)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == out.texts[0]


END = small.processor().tokenizer.token_to_id("<|im_end|>")


def answered(sampling: SamplingConfig, new: int = 12, **options: Any) -> Answered:
    batch, tokenizer = small.prompts("Hi", "Who are you?"), small.processor().tokenizer
    return answer(small.MODEL, small.params(), batch, tokenizer, sampling, new, **options)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[int, int]], None]]:
    """Makes every answer the ids 40, 41, ..., but for those that are given at some steps."""

    def follow(special: dict[int, int]) -> None:
        def choose(logits: Array, generated: Array, *_: object) -> Array:
            step = generated.sum(axis=1)
            tokens = 40 + step
            for at, chosen in special.items():
                tokens = jnp.where(step == at, chosen, tokens)
            return tokens.astype(jnp.int32)

        monkeypatch.setattr("ola_jax.generate.decode.next_token", choose)
        jax.clear_caches()

    yield follow
    jax.clear_caches()  # the programs with the script in them


def test_im_end_ends_an_answer_whatever_the_file_lists(script: Callable) -> None:
    script({2: END})
    for values in ({}, {"do_sample": False}, {"eos_token_id": None}, {"eos_token_id": [5]}):
        out = answered(from_generation_config(values, 728))
        assert out.ids == [[40, 41, END]] * 2  # it belongs to the ids, not to the text
        assert out.texts == [small.processor().tokenizer.decode([40, 41]).strip()] * 2


def test_end_of_text_ends_an_answer_where_the_file_lists_it(script: Callable) -> None:
    end_of_text = small.processor().tokenizer.token_to_id("<|endoftext|>")
    script({1: end_of_text, 3: END})
    listed = from_generation_config({"eos_token_id": end_of_text}, 728)
    assert answered(listed).ids == [[40, end_of_text]] * 2
    assert answered(from_generation_config({}, 728)).ids == [[40, end_of_text, 42, END]] * 2


def test_the_stream_ends_with_the_first_row_and_says_what_its_text_says() -> None:
    pieces: list[str] = []
    sampling = SamplingConfig(temperature=2.0, stop_ids=tuple(range(0, 700, 9)), vocab_size=728)
    for seed in range(5):
        pieces.clear()
        out = answered(sampling, seed=seed, write=pieces.append)
        assert out.ids == answered(sampling, seed=seed).ids
        assert "".join(pieces) == small.processor().tokenizer.decode(out.ids[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 10**20}, "seed is 1"),
        ({"new": 0}, "max_new_tokens is 0"),
        ({"new": 10**8}, "max_new_tokens is 100000000; together at most 32768"),
        ({"new": 12, "positions": 20}, "together at most 20"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_memory_is_taken(options: dict, message: str) -> None:
    with pytest.raises(OlaError, match=message):
        answered(SamplingConfig(), **options)


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")

    monkeypatch.setattr("ola_jax.generate.answer.prefill", full)
    with pytest.raises(OlaError, match="too much for the device's memory") as caught:
        answered(SamplingConfig())
    assert "\n" not in str(caught.value)


def test_a_prompt_that_fills_the_maximum_length_is_answered() -> None:
    record = {"conversations": [{"from": "human", "value": "Who are you?"}]}
    length = len(small.processor().sample(record).tokens)
    full = small.processor(max_length=length)
    out = answer(
        small.MODEL, small.params(), full([record]), full.tokenizer, SamplingConfig(vocab_size=728), 12
    )
    assert out.ids[0] == answered(SamplingConfig(vocab_size=728)).ids[1]
    with pytest.raises(OlaError, match=f"at most {length - 1}"):
        small.processor(max_length=length - 1)([record])
