"""The JSON of replies, and of the events of a stream, in the shapes of OpenAI's API."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ola_jax.generate.requests import Completion

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


@dataclasses.dataclass(frozen=True)
class ReplyHead:
    """What all parts of one reply share."""

    id: str
    created: int  # seconds since 1970
    model: str
    include_usage: bool

    def whole(self, completion: Completion) -> bytes:
        """The reply to a request without streaming."""
        message = {"role": "assistant", "content": completion.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": completion.finish_reason,
        }
        return _encode(self._fields("chat.completion", [choice]) | {"usage": usage(completion)})

    def delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        """An event with one change of the message: its role, more content, or none with why it ended."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        fields = self._fields("chat.completion.chunk", [choice])
        return event(fields | ({"usage": None} if self.include_usage else {}))

    def usage(self, completion: Completion) -> bytes:
        """The last event but [DONE], if the request asks for it."""
        return event(self._fields("chat.completion.chunk", []) | {"usage": usage(completion)})

    def _fields(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


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
