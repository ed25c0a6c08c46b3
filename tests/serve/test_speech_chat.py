"""Spoken answers of /v1/chat/completions, with OpenAI's own client."""

import base64
import contextlib
import io
import json
import threading
import time
import wave
from collections.abc import Iterator

import av
import numpy as np
import openai
import pytest

from ola_jax.serve.limits import Limits
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.voice import SPEECH_RATE, Samples
from tests.serve.running import Running, chat, open_request, wait_for
from tests.serve.stand_in_voice import ANSWER, letters, speaking

SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "letters", "format": "pcm16"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with speaking() as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as found:
        yield found


def asking(kind: str | None = None, **fields):
    audio = {"voice": "letters"} | ({"format": kind} if kind else {})
    return chat("hello") | {"modalities": ["text", "audio"], "audio": audio} | fields


def whole(server: Running, **fields) -> dict:
    status, reply, _ = server.post(asking(**fields))
    assert status == 200, reply
    return reply["choices"][0]["message"]


def metric(server: Running, name: str) -> float:
    lines = server.get("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_streamed_answer_is_text_and_audio_in_one_choice(client: openai.OpenAI, server: Running) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asking("pcm16"), stream=True, stream_options=options))
    deltas = [(c.choices[0].delta, c.choices[0].finish_reason) for c in chunks if c.choices]
    assert all(len(c.choices) == 1 for c in chunks[:-1])
    assert all(c.choices[0].index == 0 for c in chunks[:-1])
    audio = [delta.audio for delta, _ in deltas if getattr(delta, "audio", None)]
    parts = [base64.b64decode(a.data, validate=True) for a in audio if a.data]
    assert len(parts) > 3
    assert all(len(part) % 6 == 0 for part in parts)
    assert sum(a.id is not None for a in audio) == 1
    assert [a.expires_at is not None for a in audio].count(True) == 1
    assert "".join(a.transcript or "" for a in audio) == ANSWER
    assert "".join(delta.content or "" for delta, _ in deltas) == ANSWER
    assert [reason for _, reason in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(ANSWER.split())
    pcm = base64.b64decode(whole(server, kind="pcm16")["audio"]["data"])
    assert b"".join(parts) == pcm


def test_the_streaming_helper_puts_the_audio_together(client: openai.OpenAI, server: Running) -> None:
    with client.chat.completions.stream(**asking("pcm16")) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        message = stream.get_final_completion().choices[0].message
    assert text == message.content == message.audio.transcript == ANSWER
    assert message.audio.id.startswith("audio_")
    assert message.audio.id.count("audio_") == 1
    assert abs(message.audio.expires_at - time.time()) < 60
    expected = base64.b64decode(whole(server, kind="pcm16")["audio"]["data"])
    assert base64.b64decode(message.audio.data, validate=True) == expected
    assert len(expected) > SPEECH_RATE * 2


def test_audio_comes_before_the_text_ends() -> None:
    with speaking(step_seconds=0.02) as server, client_of(server) as client:
        kinds = []
        for chunk in client.chat.completions.create(**asking("pcm16"), stream=True):
            delta = chunk.choices[0].delta
            kinds.append("audio" if getattr(delta, "audio", None) and delta.audio.data else "text")
    first, last = kinds.index("audio"), len(kinds) - 1 - kinds[::-1].index("text")
    assert kinds[first:last].count("text") > 5


@contextlib.contextmanager
def client_of(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="x", max_retries=0) as found:
        yield found


def samples_of(file: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(file)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    found = np.concatenate(frames, axis=1).reshape(-1)
    return found / (32768 if found.dtype == np.int16 else 1), rate


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "opus", "aac"])
def test_a_whole_answer_has_a_file(server: Running, kind: str) -> None:
    message = whole(server, kind=kind)
    assert message["content"] == message["audio"]["transcript"] == ANSWER
    pcm = base64.b64decode(whole(server, kind="pcm16")["audio"]["data"])
    expected = np.frombuffer(pcm, "<i2") / 32768
    file = base64.b64decode(message["audio"]["data"], validate=True)
    found, rate = samples_of(file)
    assert abs(len(found) / rate - len(expected) / SPEECH_RATE) < 0.1
    if kind in ("wav", "flac"):
        assert np.array_equal(found, expected)
    else:
        level = lambda audio: np.sqrt(np.mean(audio**2))
        assert abs(level(found) / level(expected) - 1) < 0.1
    if kind == "wav":
        with wave.open(io.BytesIO(file)) as header:
            assert header.getnframes() == len(expected)


def test_without_a_format_a_whole_answer_is_wav_and_a_stream_pcm16(server: Running) -> None:
    assert base64.b64decode(whole(server)["audio"]["data"])[:4] == b"RIFF"
    assert server.post(asking(stream=True))[0] == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"kind": "wav", "stream": True}, "audio.format"),
        ({"kind": "ogg"}, "audio.format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"modalities": "audio"}, "modalities"),
        ({"modalities": ["text", "audio", "image"]}, "modalities"),
        ({"modalities": [["text"]]}, "modalities"),
        ({"modalities": ["text"]}, "audio"),
        ({"modalities": None}, "audio"),
        ({"audio": {"voice": "alloy"}}, "audio.voice"),
        ({"audio": {"voice": 1}}, "audio.voice"),
        ({"audio": {"format": ["wav"]}}, "audio.format"),
        ({"audio": {"rate": 8000}}, "audio.rate"),
        ({"audio": "loud"}, "audio"),
    ],
)
def test_what_cannot_be_spoken_is_refused(server: Running, fields: dict, param: str) -> None:
    status, reply, _ = server.post(asking(**fields))
    assert status == 400, reply
    assert reply["error"]["param"] == param
    if fields.get("stream"):
        assert "pcm16" in reply["error"]["message"]


def test_a_server_without_a_voice_says_so() -> None:
    with speaking(voice=None) as server:
        status, reply, _ = server.post(asking())
        assert (status, reply["error"]["code"]) == (400, "no_voice")
        assert "--voice hibari" in reply["error"]["message"]
        assert server.get("/v1/audio/voices")[1] == {"voices": []}
        assert server.post(chat("hello") | {"modalities": ["text"]})[0] == 200


def test_a_piece_that_is_not_spoken_is_reported_and_the_answer_goes_on() -> None:
    answer = "The first sentence is spoken by it. 这一句话它不会说。这一句它也不会说。 The last one is."
    with speaking(answer) as server, client_of(server) as client:
        message = whole(server, kind="pcm16")
        assert message["content"] == answer
        (skipped,) = message["audio"]["skipped"]
        assert "这一句话" in skipped["text"]
        assert skipped["reason"] == "letters does not read chinese"
        with client.chat.completions.stream(**asking("pcm16")) as stream:
            final = stream.get_final_completion().choices[0]
        assert final.finish_reason == "stop"
        assert final.message.audio.data == message["audio"]["data"]
        assert final.message.audio.skipped == [skipped]
        assert metric(server, "ola_speech_skipped_pieces_total") == 2


def test_a_voice_that_breaks_does_not_end_the_answer() -> None:
    class Broken:
        name, scripts = "broken", None

        def speak(self, text: str) -> Iterator[Samples]:
            raise RuntimeError("a fault at http://10.0.0.1/")

        def close(self) -> None:
            pass

    with speaking(voice=ServedVoice("letters", Broken())) as server:
        message = whole(server)
        assert message["content"] == ANSWER
        assert message["audio"]["skipped"] == [{"text": "", "reason": "voice failed"}]
        assert "10.0.0.1" not in json.dumps(message)
        with wave.open(io.BytesIO(base64.b64decode(message["audio"]["data"]))) as header:
            assert header.getnframes() == 1
        status, text, _ = server.post(asking(stream=True))
        assert (status, text.count("[DONE]"), text.count('"finish_reason":"stop"')) == (200, 1, 1)


def test_an_answer_that_fails_ends_its_stream_with_the_error() -> None:
    with speaking(fail_at=12) as server:
        text = server.post(asking(stream=True))[1]
        assert '"error"' in text
        assert text.endswith("data: [DONE]\n\n")
        assert server.post(asking())[0] == 500


def test_audio_is_cut_off_at_the_limit() -> None:
    with speaking(limits=Limits(speech_seconds=0.5)) as server:
        message = whole(server, kind="pcm16")
        assert message["content"] == ANSWER
        assert len(base64.b64decode(message["audio"]["data"])) == SPEECH_RATE
        assert message["audio"]["skipped"][-1]["reason"] == "longer than 0.5 seconds"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_interrupts_the_speech(stream: bool) -> None:
    texts, released = [], threading.Event()

    def slow(text: str) -> Samples:
        texts.append(text)
        released.wait(10.0)
        return letters(text)

    voice = ServedVoice("letters", CallableVoice(slow))
    with speaking(voice=voice) as server:
        connection = open_request(server.port, asking(stream=stream))
        wait_for(lambda: texts)
        connection.close()
        wait_for(lambda: server.engine.status().running == 0)
        time.sleep(0.1)
        released.set()
        time.sleep(0.3)
        assert len(texts) == 1
        wait_for(lambda: server.get("/health")[1]["waiting"] == 0)


def test_figures_of_speech(server: Running) -> None:
    before = {
        name: metric(server, name)
        for name in ("ola_speech_seconds_total", "ola_speech_real_time_factor_count")
    }
    pcm = base64.b64decode(whole(server, kind="pcm16")["audio"]["data"])
    seconds = metric(server, "ola_speech_seconds_total") - before["ola_speech_seconds_total"]
    assert abs(seconds - len(pcm) / 2 / SPEECH_RATE) < 0.001
    count = metric(server, "ola_speech_real_time_factor_count")
    assert count - before["ola_speech_real_time_factor_count"] == 1
    assert metric(server, "ola_time_to_first_audio_seconds_count") >= 1
    assert metric(server, "ola_speech_underruns_total") >= 0
