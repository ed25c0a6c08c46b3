"""Speech options of requests: the fields of a spoken answer, and the body of /v1/audio/speech."""

import dataclasses
from typing import Any, Literal, get_args

from ola_jax.errors import quote
from ola_jax.serve.api_error import ApiError, invalid
from ola_jax.serve.audio_files import AudioFormat
from ola_jax.serve.fields import number, object_of, text
from ola_jax.speech.voice import DEFAULT_VOICE

INPUT_CHARACTERS = 4096  # of /v1/audio/speech
NAME_CHARACTERS = 256
SPEEDS = (0.25, 4.0)

StreamFormat = Literal["audio", "sse"]

_CHAT_FORMATS: dict[str, AudioFormat] = {
    **{name: name for name in get_args(AudioFormat) if name != "pcm"},
    "pcm16": "pcm",
}
_SPEECH_FORMATS: dict[str, AudioFormat] = {name: name for name in get_args(AudioFormat)}
_BODY = ("model", "input", "voice", "response_format", "speed", "stream_format", "instructions")


@dataclasses.dataclass(frozen=True)
class AnswerAudio:
    """The audio that a chat request asks for."""

    voice: str
    format: AudioFormat


@dataclasses.dataclass(frozen=True)
class SpeechRequest:
    """A text to be spoken."""

    text: str
    voice: str
    format: AudioFormat
    speed: float
    stream_format: StreamFormat


def read_answer_audio(body: dict[str, Any], stream: bool) -> AnswerAudio | None:
    """The audio of a chat request; None for an answer in text alone. Raises ApiError."""
    modalities = body.get("modalities") or ["text"]
    if not isinstance(modalities, list) or sorted(map(str, modalities)) not in (["text"], ["audio", "text"]):
        message = f'{quote(modalities)} is not supported, only ["text"] or ["text", "audio"]'
        raise invalid(message, "modalities", "unsupported_value")
    if "audio" not in modalities:
        if body.get("audio") is not None:
            raise invalid('only with modalities: ["text", "audio"]', "audio")
        return None
    given = object_of(body.get("audio") or {}, "audio", ("voice", "format"))
    kind = given.get("format") or ("pcm16" if stream else "wav")
    if stream and kind != "pcm16":
        message = f"{quote(kind)} cannot be streamed: ask for pcm16, or leave out stream"
        raise invalid(message, "audio.format", "unsupported_value")
    return AnswerAudio(
        _voice(given.get("voice"), "audio.voice"), _format(kind, "audio.format", _CHAT_FORMATS)
    )


def read_speech_request(body: dict[str, Any], model: str) -> SpeechRequest:
    """The body of /v1/audio/speech, checked. Raises ApiError naming the field that is wrong."""
    given = object_of(body, "body", _BODY)
    if given.get("model") not in (None, model):
        raise ApiError(404, f"no such model; this server has {model}", param="model", code="model_not_found")
    if given.get("instructions"):
        raise invalid("voices here take no instructions", "instructions", "unsupported_value")
    said = text(given.get("input"), "input", INPUT_CHARACTERS)
    if not said.strip():
        raise invalid("empty text", "input")
    speed = number(given.get("speed"), "speed", *SPEEDS)
    return SpeechRequest(
        text=said,
        voice=_voice(given.get("voice"), "voice"),
        format=_format(given.get("response_format") or "mp3", "response_format", _SPEECH_FORMATS),
        speed=1.0 if speed is None else float(speed),
        stream_format=_stream_format(given.get("stream_format") or "audio"),
    )


def _voice(value: Any, name: str) -> str:
    return DEFAULT_VOICE if value is None else text(value, name, NAME_CHARACTERS)


def _stream_format(value: Any) -> StreamFormat:
    for known in get_args(StreamFormat):
        if value == known:
            return known
    raise invalid(f"expected audio or sse, found {quote(value)}", "stream_format")


def _format(value: Any, name: str, formats: dict[str, AudioFormat]) -> AudioFormat:
    if not isinstance(value, str) or value not in formats:
        raise invalid(f"expected {', '.join(formats)}, found {quote(value)}", name, "unsupported_value")
    return formats[value]
