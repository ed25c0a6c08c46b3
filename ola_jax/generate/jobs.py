"""A request while the engine works on it: how far it is, and its text as it grows."""

import collections
import time
from collections.abc import Iterator

from tokenizers import Tokenizer

from ola_jax.generate.prompts import MediaPart, Prompt, identity
from ola_jax.generate.requests import Completion, FinishReason, Handle, Listener, Piece, Request
from ola_jax.generate.stops import StopStrings
from ola_jax.generate.streaming import TextStream
from ola_jax.typing import Array


class Job:
    """The engine's state of a request; once queued, only the engine's thread changes it."""

    def __init__(
        self,
        request: Request,
        *,
        prompt: Prompt,
        stop_ids: tuple[int, ...],
        tokenizer: Tokenizer,
        listener: Listener,
        handle: Handle,
    ):
        self.request, self.prompt, self.stop_ids = request, prompt, stop_ids
        self.handle = handle
        self.identity = None if request.conversation is None else identity(prompt)
        self.slot: int | None = None
        self.cached = 0  # tokens that an earlier request had read
        self.read = 0  # tokens of the prompt in the cache
        self.parts: collections.deque[MediaPart] = collections.deque()  # still to be encoded
        self.encoding: Iterator[Array | None] | None = None  # of the first of the parts
        self.ids: list[int] = []
        self.asked = 0  # tokens that the device has been asked for, those in `ids` among them
        self._texts: list[str] = []
        self._new_text: list[str] = []
        self._stream = TextStream(tokenizer, self._new_text.append)
        self._stops = StopStrings(request.stop)
        self._listener = listener
        self._came = time.monotonic()
        self._began: float | None = None
        self._answered: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens in the cache."""
        return self.read + max(len(self.ids) - 1, 0)

    def begin(self, slot: int, cached: int) -> None:
        """A slot is free, and so much of the prompt is in it already."""
        self.slot, self.cached, self.read = slot, cached, cached
        self._began = time.monotonic()
        used = set(self.prompt.source[cached:].tolist())
        self.parts.extend(
            part for part in self.prompt.parts if not used.isdisjoint(range(part.row, part.row + part.rows))
        )

    def add(self, ids: list[int]) -> FinishReason | None:
        """Hand the next tokens to the listener; the reason why the answer has ended, if it has."""
        self._answered = self._answered or time.monotonic()
        text, used = "", 0
        reason: FinishReason | None = None
        while reason is None and used < len(ids):
            token = ids[used]
            used += 1
            self.ids.append(token)
            self._stream.add(token)
            text += self._stops.add(self._taken())
            if self._stops.found or token in self.stop_ids:
                reason = "stop"
            elif len(self.ids) == self.request.max_new_tokens:
                reason = "length"
        if reason is not None:
            self._stream.close()
            text += self._stops.add(self._taken()) + self._stops.close()
        self._texts.append(text)
        if used:
            self._listener(Piece(text, tuple(ids[:used])))
        return reason

    def completion(self, reason: FinishReason, error: str | None) -> Completion:
        """The outcome of the request."""
        now = time.monotonic()
        return Completion(
            text="".join(self._texts),
            ids=tuple(self.ids),
            finish_reason=reason,
            prompt_tokens=len(self.prompt.tokens),
            counts=self.request.sample.counts,
            cached_tokens=self.cached,
            queue_seconds=(self._began or now) - self._came,
            first_token_seconds=self._answered - self._came if self._answered else 0.0,
            seconds=now - self._came,
            error=error,
        )

    def deliver(self, completion: Completion) -> None:
        """Hand the completion to the listener and to those who wait."""
        try:
            self._listener(completion)
        finally:
            self.handle.finish(completion)

    def _taken(self) -> str:
        text = "".join(self._new_text)
        self._new_text.clear()
        return text
