"""/v1/audio/speech and /v1/audio/voices, with OpenAI's own client."""

import base64
import http.client
import json
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from ola_jax.serve.audio_files import MEDIA_TYPES
from ola_jax.serve.voices import ServedVoice
from ola_jax.speech.callable_voice import CallableVoice
from ola_jax.speech.loading import VoiceOptions, load_voice
from ola_jax.speech.pipeline import SpeechAudio, SpeechStream
from ola_jax.speech.voice import SPEECH_RATE, Samples, VoiceError
from ola_jax.speech.waveform import to_pcm16
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import MODEL, Running, running
from tests.serve.stand_in_voice import ANSWER, LETTERS, letters, speaking
from tests.serve.test_speech_chat import client_of, metric, samples_of


class Adjustable:
    """A stand-in that can speak at half and at double speed."""

    name, scripts, speeds = "letters", frozenset({"latin"}), (0.5, 2.0)

    def __init__(self, speed: float = 1.0):
        self._speed = speed

    def at_speed(self, speed: float) -> "Adjustable":
        return Adjustable(speed)

    def speak(self, text: str) -> Iterator[Samples]:
        samples = letters(text)
        yield np.resize(samples, int(len(samples) / self._speed))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with speaking(voice=ServedVoice("letters", Adjustable())) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with client_of(server) as found:
        yield found


def said(text: str) -> bytes:
    """What the pipeline makes of a text, without a server."""
    parts: list[Samples] = []
    stream = SpeechStream(
        LETTERS.voice, lambda e: parts.append(e.samples) if isinstance(e, SpeechAudio) else 0
    )
    stream.write(text)
    stream.finish()
    stream.wait(20.0)
    return to_pcm16(np.concatenate(parts))


def test_pcm_is_streamed(client: openai.OpenAI) -> None:
    create = client.audio.speech.with_streaming_response.create
    with create(model=MODEL, input=ANSWER, voice="letters", response_format="pcm") as reply:
        assert reply.headers["content-type"] == "audio/pcm"
        found = b"".join(reply.iter_bytes())
    expected = said(ANSWER)
    assert found.rstrip(b"\0") == expected.rstrip(b"\0")
    assert 0 <= len(found) - len(expected) < 6


@pytest.mark.parametrize("kind", ["mp3", "opus", "aac", "flac", "wav"])
def test_files(client: openai.OpenAI, kind: str) -> None:
    reply = client.audio.speech.create(model=MODEL, input=ANSWER, voice="letters", response_format=kind)
    assert reply.response.headers["content-type"] == MEDIA_TYPES[kind]
    audio, rate = samples_of(reply.content)
    assert abs(len(audio) / rate - len(said(ANSWER)) / 2 / SPEECH_RATE) < 0.1


def test_mp3_and_the_servers_voice_are_the_defaults(server: Running) -> None:
    status, _, headers = ask(server, input="Hello there, it is me.")
    assert (status, headers["content-type"]) == (200, "audio/mpeg")


def ask(server: Running, **body) -> tuple:
    """Status, body where that is JSON, and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/audio/speech", json.dumps(body), headers)
    reply = connection.getresponse()
    data, found = reply.read(), {name.lower(): value for name, value in reply.getheaders()}
    connection.close()
    is_json = found.get("content-type") == "application/json"
    return reply.status, json.loads(data) if is_json else data, found


@pytest.mark.parametrize("kind", ["pcm", "wav"])
def test_events_have_the_bytes_of_the_stream(server: Running, kind: str) -> None:
    _, expected, _ = ask(server, input=ANSWER, voice="letters", response_format=kind)
    status, data, headers = ask(
        server, input=ANSWER, voice="letters", response_format=kind, stream_format="sse"
    )
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    events = [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == {"type": "speech.audio.done", "skipped": []}
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert base64.b64decode("".join(event["audio"] for event in events[:-1]), validate=True) == expected
    assert len(events) > 3


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_speed(client: openai.OpenAI, speed: float) -> None:
    reply = client.audio.speech.create(
        model=MODEL, input="one short text", voice="letters", response_format="pcm", speed=speed
    )
    seconds = len(reply.content) / 2 / SPEECH_RATE
    assert abs(seconds - len("one short text") / 100 / speed) < 0.05


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": " \n"}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"input": "x" * 4097}, 400, "input"),
        ({"input": "\ud800"}, 400, "input"),
        ({"input": "😀"}, 400, "input"),
        ({"input": "你好，世界。"}, 400, "input"),
        ({"voice": "alloy"}, 400, "voice"),
        ({"voice": {"id": "x"}}, 400, "voice"),
        ({"response_format": "pcm16"}, 400, "response_format"),
        ({"response_format": ["wav"]}, 400, "response_format"),
        ({"speed": 0.2}, 400, "speed"),
        ({"speed": 4}, 400, "speed"),
        ({"speed": "fast"}, 400, "speed"),
        ({"stream_format": "ws"}, 400, "stream_format"),
        ({"instructions": "whisper"}, 400, "instructions"),
        ({"model": "tts-1"}, 404, "model"),
        ({"pitch": 2}, 400, "body.pitch"),
    ],
)
def test_what_cannot_be_spoken_is_refused(server: Running, fields: dict, status: int, param: str) -> None:
    found, reply, _ = ask(server, **({"input": "Hello there.", "model": MODEL} | fields))
    assert (found, reply["error"]["param"]) == (status, param), reply


def test_the_longest_input_is_taken(server: Running) -> None:
    text = ("word " * 820)[:4096]
    assert ask(server, input=text, response_format="pcm")[0] == 200


def test_the_language_that_the_voice_does_not_read_is_named(server: Running) -> None:
    error = ask(server, input="你好，世界。")[1]["error"]
    assert "letters does not read chinese" in error["message"]


def test_a_voice_of_one_speed_refuses_others_and_one_that_fails_says_so() -> None:
    def fail(text: str) -> Samples:
        raise VoiceError("no answer from http://10.0.0.1/")

    with speaking(voice=ServedVoice("mine", CallableVoice(fail))) as server:
        found, reply, _ = ask(server, input="Hello there.", speed=1.5)
        assert (found, reply["error"]["param"]) == (400, "speed")
        found, reply, _ = ask(server, input="Hello there.")
        assert (found, reply["error"]["code"]) == (503, "voice_failed")
        assert "10.0.0.1" not in reply["error"]["message"]
        assert metric(server, "ola_speech_skipped_pieces_total") == 1


def test_another_server_can_be_the_voice(server: Running) -> None:
    url = f"http://127.0.0.1:{server.port}/v1"
    found = load_voice(VoiceOptions("http", voice_url=url, voice_model=MODEL, voice_name="letters"))
    assert found is not None
    voice = ServedVoice(*found)
    with speaking(voice=voice) as second, client_of(second) as client:
        text = "Only one sentence of it."
        reply = client.audio.speech.create(model=MODEL, input=text, voice="letters", response_format="pcm")
        seconds = [len(pcm) / 2 / SPEECH_RATE for pcm in (reply.content, said(text))]
        assert abs(seconds[0] - seconds[1]) < 0.05
    voice.voice.close()


def test_voices(server: Running) -> None:
    assert server.get("/v1/audio/voices")[1] == {"voices": ["letters"]}


def test_keys_guard_speech() -> None:
    with running(FakeEngine(parity.processor("infer")), api_keys=("secret-key",), voice=LETTERS) as server:
        assert ask(server, input="Hello there.")[0] == 401
        assert server.get("/v1/audio/voices")[0] == 401
