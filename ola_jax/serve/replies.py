"""The JSON of replies, and of the events of a stream, in the shapes of OpenAI's API."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ola_jax.generate.requests import Completion
from ola_jax.serve.speaking import Skipped

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


@dataclasses.dataclass(frozen=True)
class AnswerSpeech:
    """The audio of a complete answer, as a file, and the pieces that are not in it."""

    file: bytes
    skipped: tuple[Skipped, ...]


@dataclasses.dataclass(frozen=True)
class ReplyHead:
    """Fields shared by all parts of one reply. Audio is not kept: it expires when it is created."""

    id: str
    created: int  # seconds since 1970
    model: str
    include_usage: bool

    def whole(self, completion: Completion, speech: AnswerSpeech | None = None) -> bytes:
        """The reply to a request without streaming."""
        message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
        if speech is not None:
            message["audio"] = {
                "id": self._audio_id,
                "data": base64.b64encode(speech.file).decode(),
                "expires_at": self.created,
                "transcript": completion.text,
                "skipped": _skipped(speech.skipped),
            }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": completion.finish_reason,
        }
        return _encode(self._fields("chat.completion", [choice]) | {"usage": usage(completion)})

    def first(self, *, spoken: bool) -> bytes:
        """The first event: who writes, and the id of the audio. Clients join texts, so that it comes once."""
        audio = {"audio": {"id": self._audio_id, "data": "", "transcript": ""}} if spoken else {}
        return self.delta({"role": "assistant", "content": "", **audio})

    def text(self, text: str, *, spoken: bool) -> bytes:
        """An event with more text, which is the transcript of the audio as well."""
        return self.delta({"content": text} | ({"audio": {"transcript": text}} if spoken else {}))

    def spoken(self, skipped: Sequence[Skipped]) -> bytes:
        """The event behind the last audio. Clients add numbers up, so that expires_at comes once."""
        return self.delta({"audio": {"expires_at": self.created, "skipped": _skipped(skipped)}})

    def delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        """An event with one change of the message: its role, more content, or none with why it ended."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        fields = self._fields("chat.completion.chunk", [choice])
        return event(fields | ({"usage": None} if self.include_usage else {}))

    def usage(self, completion: Completion) -> bytes:
        """The last event but [DONE], if the request asks for it."""
        return event(self._fields("chat.completion.chunk", []) | {"usage": usage(completion)})

    @property
    def _audio_id(self) -> str:
        return self.id.replace("chatcmpl-", "audio_")

    def _fields(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _skipped(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [dataclasses.asdict(piece) for piece in skipped]


def usage(completion: Completion) -> dict[str, Any]:
    """Tokens of a prompt, by modality, and of its answer."""
    new = len(completion.ids)
    details = {f"{kind}_tokens": count for kind, count in completion.counts.items()}
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": new,
        "total_tokens": completion.prompt_tokens + new,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens, **details},
    }


def event(value: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"data: " + _encode(value) + b"\n\n"


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
