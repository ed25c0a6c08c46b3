"""Many spoken answers at the same time: each is the one given alone, text and audio."""

import base64
import concurrent.futures
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ola_jax.generate.engine import Engine, EngineConfig
from ola_jax.generate.requests import Request
from ola_jax.generate.sampling import from_generation_config
from ola_jax.models.ola import Ola
from ola_jax.serve.limits import Limits
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.voice import Samples
from tests import parity
from tests.released import released
from tests.serve.running import INPUTS, Running, audio, chat, image, running
from tests.serve.stand_in_voice import letters, speaking
from tests.serve.test_speech_chat import metric

TOGETHER = 16
ANSWERS = [
    f"Answer number {n} speaks of {what}. It has a second sentence, and {n + 3} words or so. That is it!"
    for n, what in enumerate(("cats", "bridges", "the weather", "old maps", "music", "rice", "stars", "tea"))
]


def ask(server: Running, body: dict[str, Any]) -> tuple[str, bytes]:
    """Text and audio of a streamed answer."""
    modalities = {"modalities": ["text", "audio"], "audio": {"format": "pcm16"}, "stream": True}
    status, reply, _ = server.post(body | modalities)
    assert status == 200, reply
    assert '"error"' not in reply
    deltas = [
        json.loads(line[6:])["choices"][0]["delta"]
        for line in reply.splitlines()
        if line.startswith("data: {")
    ]
    text = "".join(delta.get("content") or "" for delta in deltas)
    data = "".join(delta.get("audio", {}).get("data", "") for delta in deltas)
    return text, base64.b64decode(data, validate=True)


def together(work: Callable[[int], Any]) -> list[Any]:
    start = threading.Barrier(TOGETHER)

    def run(number: int) -> Any:
        start.wait(20.0)
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(run, range(TOGETHER)))


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """The golden model, and a voice that has a tone for each text."""

    def speak(text: str) -> Iterator[Samples]:
        samples = letters(text[:200])
        yield from (samples[start : start + 1001] for start in range(0, len(samples), 1001))

    r, processor = released(), parity.processor("infer")
    sampling = from_generation_config(r.generation_config, processor.tokenizer.get_vocab_size())
    config = EngineConfig(slots=4, length=1024, prefill_chunk=128, queue=2)
    engine = Engine(Ola(r.config), r.params, processor, sampling, config)
    with running(engine, Limits(queue=64), voice=ServedVoice("letters", CallableVoice(speak))) as found:
        yield found


def test_answers_of_the_model_are_those_given_alone(server: Running) -> None:
    bodies = [
        chat("Hello", max_tokens=24, temperature=1.2, seed=1),
        chat("What is this?", image(INPUTS / "img_gray.png"), max_tokens=24),
        chat(audio(INPUTS / "a_short.wav"), max_tokens=24, temperature=0.9, seed=3),
        chat("Something else", max_tokens=24, temperature=1.2, seed=4),
    ]
    alone = [ask(server, body) for body in bodies]
    assert all(a != b for a, b in itertools.combinations(alone, 2))
    assert all(text and pcm for text, pcm in alone)
    for number, found in enumerate(together(lambda number: ask(server, bodies[number % 4]))):
        assert found == alone[number % 4]


def test_hibari_speaks_them_as_it_does_alone() -> None:
    def answer(request: Request) -> str:
        return ANSWERS[request.seed % len(ANSWERS)]

    voice = ServedVoice("heart", HibariVoice())
    with speaking(answer, voice, Limits(queue=64), step_seconds=0.02) as server:
        body = lambda number: chat("hello", seed=number % len(ANSWERS))
        alone = [ask(server, body(number)) for number in range(len(ANSWERS))]
        assert [text for text, _ in alone] == ANSWERS
        assert len({pcm for _, pcm in alone}) == len(ANSWERS)
        underruns = metric(server, "ola_speech_underruns_total")
        for number, found in enumerate(together(lambda number: ask(server, body(number)))):
            assert found == alone[number % len(ANSWERS)]
        assert metric(server, "ola_time_to_first_audio_seconds_count") == len(ANSWERS) + TOGETHER
        assert metric(server, "ola_speech_skipped_pieces_total") == 0
        assert metric(server, "ola_speech_underruns_total") == underruns
