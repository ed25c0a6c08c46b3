"""Time to first audio and underruns of spoken answers, alone and 16 at once.

    python benchmarks/spoken_answers.py

A stand-in for the model writes a fixed number of words a second, so that the figures are those of speech.
"""

import concurrent.futures
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from ola_jax.generate.requests import EngineConfig, Request
from ola_jax.serve.limits import Limits
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.hibari_voice import HibariVoice
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, chat, running
from tests.serve.test_speech_together import ANSWERS, TOGETHER, ask

NAMES = (
    "ola_time_to_first_audio_seconds_sum",
    "ola_time_to_first_audio_seconds_count",
    "ola_speech_underruns_total",
)


def answer(request: Request) -> str:
    """Nine sentences."""
    return " ".join(ANSWERS[(request.seed + n) % len(ANSWERS)] for n in range(3))


def body(number: int) -> dict[str, Any]:
    return chat("hello", seed=number % len(ANSWERS))


def figures(server: Running) -> list[float]:
    lines = dict(
        line.split() for line in server.get("/metrics")[1].splitlines() if line[0] != "#" and "{" not in line
    )
    return [float(lines[name]) for name in NAMES]


def report(words: int, together: int, before: list[float], after: list[float]) -> None:
    seconds, count, underruns = (new - old for old, new in zip(before, after, strict=True))
    print(f"| {words} | {together} | {seconds / count:.2f} s | {underruns:.0f} |")


def main() -> None:
    print("| words a second | answers at once | time to first audio, mean | underruns |\n|---|---|---|---|")
    for words in (50, 10):
        config = EngineConfig(slots=TOGETHER, length=8192, queue=2 * TOGETHER)
        engine = FakeEngine(parity.processor("infer"), config, step_seconds=1 / words, words=answer)
        with running(engine, Limits(), voice=ServedVoice("heart", HibariVoice())) as server:
            start = figures(server)
            for number in range(4):
                ask(server, body(number))
            report(words, 1, start, alone := figures(server))
            with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
                list(pool.map(lambda number: ask(server, body(number)), range(TOGETHER)))
            report(words, TOGETHER, alone, figures(server))


if __name__ == "__main__":
    main()
