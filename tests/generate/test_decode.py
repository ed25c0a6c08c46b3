"""Decoding from the host: one program, whether each token is waited for or not."""

import dataclasses

import jax
import numpy as np
import pytest

from ola_jax.generate import decode as decoding
from ola_jax.generate.decode import Answer, OnToken, advance, begin, decode, prefill
from ola_jax.generate.sampling import SamplingConfig
from tests.generate import small

SAMPLED = SamplingConfig(temperature=1.0, top_k=20, top_p=0.9, repetition_penalty=1.1, vocab_size=728)


def decoded(
    sampling: SamplingConfig, new: int = 12, on_token: OnToken | None = None, texts: tuple = ("Hi", "Who?")
) -> Answer:
    prompt = prefill(small.MODEL, small.params(), small.prompts(*texts), new)
    out = decode(small.MODEL, small.params(), prompt, new, sampling, jax.random.key(0), on_token)
    return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_streamed_ids_are_those_of_one_go(
    sampling: SamplingConfig, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", chunk)
    seen: list[tuple[int, np.ndarray]] = []
    streamed = decoded(sampling, on_token=lambda step, tokens: seen.append((step, tokens)))
    at_once = decoded(sampling)
    np.testing.assert_array_equal(streamed.tokens, at_once.tokens)
    np.testing.assert_array_equal(streamed.length, at_once.length)
    assert [step for step, _ in seen] == list(range(12))
    np.testing.assert_array_equal(np.stack([tokens for _, tokens in seen], axis=1), at_once.tokens)
    assert len(np.unique(at_once.tokens)) > 3


def test_streaming_compiles_nothing_again_and_keeps_nothing() -> None:
    decoded(SAMPLED, on_token=lambda *_: None)
    before = [program._cache_size() for program in (prefill, begin, advance)]
    arrays = len(jax.live_arrays())
    for _ in range(3):
        decoded(SAMPLED, on_token=lambda *_: None)
    decoded(SAMPLED)
    assert [program._cache_size() for program in (prefill, begin, advance)] == before
    assert len(jax.live_arrays()) == arrays


def test_a_row_ends_at_its_own_stop_id_and_the_batch_with_the_last_row() -> None:
    free = decoded(SamplingConfig())
    first, second = free.tokens
    stops = (int(first[2]), int(second[6]))
    ends = [next(i for i, token in enumerate(row) if token in stops) + 1 for row in free.tokens]
    steps: list[int] = []
    out = decoded(SamplingConfig(stop_ids=stops), on_token=lambda step, _: steps.append(step))
    assert out.length.tolist() == ends
    assert len(steps) == max(ends) < 12
    for row, end, expected in zip(out.tokens, ends, free.tokens, strict=True):
        np.testing.assert_array_equal(row[:end], expected[:end])


def test_one_token_needs_no_step() -> None:
    before, seen = advance._cache_size(), []
    out = decoded(SamplingConfig(top_k=3), 1, lambda step, tokens: seen.append((step, tokens.tolist())))
    assert seen == [(0, out.tokens[:, 0].tolist())]
    assert out.length.tolist() == [1, 1]
    assert advance._cache_size() == before


def test_the_prompt_can_be_answered_twice() -> None:
    prompt = prefill(small.MODEL, small.params(), small.prompts("Hi"), 4)
    asked = small.MODEL, small.params(), prompt, 4, dataclasses.replace(SAMPLED, temperature=50.0)
    first, again, other = (decode(*asked, jax.random.key(seed)).tokens.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_what_the_listener_raises_ends_the_answer() -> None:
    def broken(step: int, _: np.ndarray) -> None:
        if step == 2:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        decoded(SamplingConfig(), on_token=broken)
