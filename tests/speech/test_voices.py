"""Voices: functions, servers and processes, real and standing in."""

import contextlib
import http.server
import json
import pathlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ola_jax.errors import OlaError
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.espeak_voice import EspeakVoice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.http_voice import HttpVoice
from ola_jax.speech.process_voice import WORKER, ProcessVoice
from ola_jax.speech.voice import SPEECH_RATE, VoiceError


def test_a_function_of_another_rate_is_resampled_without_seams() -> None:
    def sine(text: str, rate: int = 16_000) -> Iterator[np.ndarray]:
        wave = np.sin(2 * np.pi * 200 * np.arange(rate) / rate).astype(np.float32)
        yield from np.split(wave, 10)

    out = np.concatenate(list(CallableVoice(sine, rate=16_000).speak("x")))
    assert abs(len(out) - SPEECH_RATE) <= 1
    expected = np.sin(2 * np.pi * 200 * np.arange(len(out)) / SPEECH_RATE)
    assert np.abs(out - expected)[500:-500].max() < 0.01


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.array([np.nan]), "text"])
def test_what_is_no_audio_is_refused(bad: Any) -> None:
    with pytest.raises(VoiceError, match="mine"):
        list(CallableVoice(lambda text: bad, name="mine").speak("x"))


@pytest.fixture(scope="module")
def hibari() -> HibariVoice:
    return HibariVoice()


def test_hibari_speaks_the_same_text_the_same_way_from_any_thread(hibari: HibariVoice) -> None:
    expected = np.concatenate(list(hibari.speak("It is half past three. Good night.")))
    assert len(expected) > SPEECH_RATE
    found: list[np.ndarray] = []
    speak = lambda: found.append(np.concatenate(list(hibari.speak("It is half past three. Good night."))))
    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for samples in found:
        np.testing.assert_array_equal(samples, expected)


def test_hibari_refuses_a_voice_and_a_speed_that_it_has_not() -> None:
    with pytest.raises(OlaError, match="'nobody' is none of hibari's: heart"):
        HibariVoice(voice="nobody")
    with pytest.raises(OlaError, match="speed is 3"):
        HibariVoice(speed=3.0)


@pytest.fixture(scope="module")
def espeak() -> EspeakVoice:
    pytest.importorskip("espeakng_loader", reason="GPL: installed on request, pip install espeakng-loader")
    return EspeakVoice()


@pytest.mark.parametrize("text", ["Good morning.", "你好，世界。", "नमस्ते", "مرحبا", "Привет"])
def test_espeak_reads_a_text_in_the_language_of_its_script(espeak: EspeakVoice, text: str) -> None:
    samples = np.concatenate(list(espeak.speak(text)))
    assert 0.2 * SPEECH_RATE < len(samples) < 4 * SPEECH_RATE
    assert np.abs(samples).max() > 0.05


def test_espeak_refuses_a_language_that_it_has_not(espeak: EspeakVoice) -> None:
    with pytest.raises(OlaError, match="no language 'klingon-x'"):
        EspeakVoice(latin="klingon-x")


@contextlib.contextmanager
def server(*, status: int = 200, kind: str = "audio/pcm", parts: list[bytes] = [b""], wait: float = 0.0):  # noqa: B006
    """Answers /v1/audio/speech with these parts; yields its address and the requests that it got."""
    requests: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            with contextlib.suppress(OSError):
                for part in parts:
                    self.wfile.write(part)
                    self.wfile.flush()
                    time.sleep(wait)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", requests
        running.shutdown()


def test_a_server_is_asked_as_openai_is_and_its_audio_passed_on() -> None:
    samples = np.arange(-3000, 3000, dtype="<i2").tobytes()
    with server(parts=[samples[:1001], samples[1001:5000], samples[5000:]]) as (url, requests):
        voice = HttpVoice(url, model="cosyvoice2", voice="anna", api_key="secret", speed=1.5)
        out = np.concatenate(list(voice.speak("Hello.")))
        voice.close()
    np.testing.assert_array_equal(out, np.arange(-3000, 3000, dtype=np.float32) / 32768)
    assert requests == [
        {
            "path": "/v1/audio/speech",
            "key": "Bearer secret",
            "model": "cosyvoice2",
            "voice": "anna",
            "response_format": "pcm",
            "speed": 1.5,
            "input": "Hello.",
        }
    ]


def test_audio_of_a_server_is_passed_on_before_it_is_complete() -> None:
    with server(parts=[b"\1\0" * 2000] * 20, wait=0.2) as (url, _):
        voice = HttpVoice(url, model="m")
        parts = voice.speak("Hello.")
        began = time.monotonic()
        next(parts)
        parts.close()
        voice.close()
        assert time.monotonic() - began < 3  # the whole takes 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 500, "kind": "text/plain", "parts": [b"out of\nmemory"]}, "answered 500: out of memory"),
        ({"status": 404}, "answered 404"),
        (
            {"kind": "application/json", "parts": [b'{"error": "no voice"}']},
            "text instead of audio.*no voice",
        ),
    ],
)
def test_what_a_server_complains_about_is_reported(answer: dict[str, Any], message: str) -> None:
    with server(**answer) as (url, _):
        voice = HttpVoice(url, model="m")
        with pytest.raises(VoiceError, match=message):
            list(voice.speak("Hello."))
        voice.close()


def test_a_server_that_is_silent_or_not_there_is_reported() -> None:
    with server(parts=[b"\0\0", b"\0\0"], wait=1.0) as (url, _):
        voice = HttpVoice(url, model="m", read_seconds=0.2)
        with pytest.raises(VoiceError, match="did not answer in time"):
            list(voice.speak("Hello."))
        voice.close()
    voice = HttpVoice(url, model="m", connect_seconds=0.5)
    with pytest.raises(VoiceError, match="no answer from"):
        list(voice.speak("Hello."))
    voice.close()
    with pytest.raises(OlaError, match="voice URL is 'localhost'"):
        HttpVoice("localhost", model="m")


SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
from voice_worker import serve

def speak(text):
    print("loading", text)  # a library that prints
    if text == "fail":
        raise ValueError("no such word")
    if text == "die":
        import os; os._exit(3)
    if text == "hang":
        time.sleep(60)
    for i in range(10 if text == "short" else 1000):
        yield [0.001 * i] * 2400

serve(speak, rate=24000)
"""


@pytest.fixture
def process(tmp_path: pathlib.Path) -> Iterator[ProcessVoice]:
    script = tmp_path / "voice.py"
    script.write_text(SCRIPT.format(folder=str(WORKER.parent)))
    voice = ProcessVoice([sys.executable, "-S", str(script)], name="worker", read_seconds=2.0)
    yield voice
    voice.close()


def test_a_process_speaks_and_what_it_prints_does_not_matter(process: ProcessVoice) -> None:
    for _ in range(2):
        out = np.concatenate(list(process.speak("short")))
        np.testing.assert_allclose(out, np.repeat(0.001 * np.arange(10), 2400), atol=1e-4)


def test_a_process_that_is_cancelled_speaks_the_next_text(process: ProcessVoice) -> None:
    parts = process.speak("long")
    next(parts)
    parts.close()
    assert len(np.concatenate(list(process.speak("short")))) == 24_000


@pytest.mark.parametrize(
    ("text", "message"),
    [("fail", "ValueError: no such word"), ("die", "has ended"), ("hang", "sent nothing for 2 s")],
)
def test_a_process_that_fails_is_reported_and_works_again(
    process: ProcessVoice, text: str, message: str
) -> None:
    with pytest.raises(VoiceError, match=message):
        list(process.speak(text))
    assert len(np.concatenate(list(process.speak("short")))) == 24_000


def test_a_command_that_is_no_voice_is_refused() -> None:
    with pytest.raises(OlaError, match="cannot run '/nowhere/python'"):
        ProcessVoice(["/nowhere/python"])
    with pytest.raises(OlaError, match=r"something else than frames|has ended"):
        ProcessVoice([sys.executable, "-c", "print('hello, this is no voice')"])
