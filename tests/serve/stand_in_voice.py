"""A voice without a model, and answers that are worth speaking."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ola_jax.generate.requests import Request
from ola_jax.serve.limits import Limits
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.voice import SPEECH_RATE, Samples
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, running

ANSWER = (
    "This is the first sentence of the answer. Here is the second one, with a little more in it. "
    "The third costs 3.50 dollars, says Dr. Smith. And that was all of it!"
)


def letters(text: str) -> Samples:
    """10 ms a character, and an odd number of samples; a pitch for each text."""
    time = np.arange(240 * len(text) + 1) / SPEECH_RATE
    return (0.1 * np.sin(2 * np.pi * (200 + hash_of(text) % 400) * time)).astype(np.float32)


def hash_of(text: str) -> int:
    return sum(number * ord(c) for number, c in enumerate(text, start=1))


LETTERS = ServedVoice("letters", CallableVoice(letters, name="letters", scripts=frozenset({"latin"})))


@contextlib.contextmanager
def speaking(
    answer: str | Callable[[Request], str] = ANSWER,
    voice: ServedVoice | None = LETTERS,
    limits: Limits | None = None,
    **engine: Any,
) -> Iterator[Running]:
    """A server that answers everything with this text, aloud if asked to."""
    words = answer if callable(answer) else lambda request: answer
    made = FakeEngine(parity.processor("infer"), words=words, **engine)
    with running(made, limits, voice=voice) as found:
        yield found
