"""The engine behind the server: an answer is the one given alone, whoever else asks."""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from benchmarks import load_test
from ola_jax.generate.engine import Engine, EngineConfig
from ola_jax.generate.requests import Completion, Request
from ola_jax.generate.sampling import from_generation_config, with_options
from ola_jax.models.ola import Ola
from ola_jax.serve.limits import Limits
from tests import parity
from tests.released import released
from tests.serve.running import INPUTS, Running, audio, chat, image, running

CONFIG = EngineConfig(slots=3, length=1536, prefill_chunk=128, queue=2)
IMAGE, SOUND = INPUTS / "img_gray.png", INPUTS / "a_short.wav"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The engine of the golden model, which answers both alone and through the server."""
    r, processor = released(), parity.processor("infer")
    sampling = from_generation_config(r.generation_config, processor.tokenizer.get_vocab_size())
    made = Engine(Ola(r.config), r.params, processor, sampling, CONFIG)
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(engine, Limits(queue=64)) as found:
        yield found


def alone(
    engine: Engine, record: dict[str, Any], new_tokens: int = 12, seed: int = 7, **options: Any
) -> Completion:
    sampling = with_options(engine.sampling, **({"temperature": 0.0} | options))
    request = Request(engine.processor.sample(record), sampling, new_tokens, seed)
    completion = engine.submit(request, lambda event: None).result(120.0)
    assert completion.error is None
    return completion


CASES = [
    (
        chat("What is this?", image(IMAGE), max_tokens=12),
        {"image": [str(IMAGE)], "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}]},
        {},
    ),
    (
        chat(audio(SOUND), "What do you hear?", max_tokens=12, temperature=0.9, top_p=0.9),
        {"audio": str(SOUND), "conversations": [{"from": "human", "value": "<speech>\nWhat do you hear?"}]},
        {"temperature": 0.9, "top_p": 0.9},
    ),
    (
        chat("Hello", max_tokens=12, temperature=1.5, top_k=20, min_p=0.01, repetition_penalty=1.2),
        {"conversations": [{"from": "human", "value": "Hello"}]},
        {"temperature": 1.5, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2},
    ),
]


def test_answers_at_the_same_time_are_those_given_alone(server: Running, engine: Engine) -> None:
    expected = [alone(engine, record, **options) for _, record, options in CASES]
    assert len({e.text for e in expected}) == len(CASES)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda n: server.post(CASES[n % len(CASES)][0]), range(12)))
    for number, (status, reply, _) in enumerate(replies):
        found = expected[number % len(CASES)]
        assert status == 200, reply
        (choice,) = reply["choices"]
        assert choice["message"]["content"] == found.text
        assert choice["finish_reason"] == found.finish_reason
        assert reply["usage"]["completion_tokens"] == len(found.ids)
        assert reply["usage"]["prompt_tokens"] == found.prompt_tokens


def test_a_conversation_reuses_its_earlier_turns_and_answers_the_same(server: Running) -> None:
    first = chat("What is this?", image(IMAGE), max_tokens=8)
    answer = server.post(first)[1]["choices"][0]["message"]["content"]
    more = [{"role": "assistant", "content": answer}, {"role": "user", "content": "And why?"}]
    if not answer.strip():
        more[0]["content"] = "A thing."
    second = first | {"messages": first["messages"] + more}
    plain = server.post(second)[1]
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    server.post(first | {"conversation": "c"})
    again = server.post(second | {"conversation": "c"})[1]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert again["choices"] == plain["choices"]
    other = server.post(second | {"conversation": "d"})[1]
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_load_test(server: Running, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """Its short form: mixed requests, some of them bad, some given up, some read slowly."""
    args = load_test.Args(streams=6, seconds=6.0, slots=CONFIG.slots, length=CONFIG.length)
    counts = load_test.load(load_test.Server(psutil.Process(), server.port), args)
    assert not counts.wrong
    assert counts.outcomes.total() > 10
    assert "tokens/s" in capsys.readouterr().out
    assert engine.status().running == engine.status().waiting == 0
