"""An engine without a model: it says what it was asked, word by word, from a thread of its own."""

import threading
import time
from collections.abc import Callable

from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.generate.requests import (
    Completion,
    EngineConfig,
    EngineStatus,
    Piece,
    QueueFullError,
    Request,
)
from ola_jax.generate.sampling import SamplingConfig

Listener = Callable[[Piece | Completion], object]


class FakeHandle:
    def __init__(self, request: Request, listener: Listener, answer: list[str]):
        self.request, self.listener, self.answer = request, listener, answer
        self.said: list[str] = []
        self.cancelled, self.completion = False, None
        self.done, self.began = threading.Event(), time.monotonic()

    def cancel(self) -> None:
        self.cancelled = True

    def result(self, timeout: float | None = None) -> Completion:
        assert self.done.wait(timeout)
        return self.completion


def describe(request: Request) -> str:
    """The answer to a request: what of it arrives at the engine."""
    sample = request.sample
    parts = [f"{kind} {count}" for kind, count in sample.counts.items() if count]
    digest = sum(int(image.patches.sum()) for image in sample.images) + round(abs(sample.audio).sum())
    return f"tokens: {', '.join(parts)}; media {digest}; seed {request.seed} 你好"


class FakeEngine:
    """Each step makes one word of every running answer; `fail_at` steps an answer ends with an error."""

    def __init__(
        self,
        processor: Processor,
        config: EngineConfig | None = None,
        *,
        step_seconds: float = 0.001,
        words: Callable[[Request], str] = describe,
        fail_at: int | None = None,
    ):
        self.processor, self.config = processor, config or EngineConfig(slots=4, length=8192, queue=8)
        self.sampling = SamplingConfig()
        self.requests: list[Request] = []
        self.step_seconds, self._words, self._fail_at = step_seconds, words, fail_at
        self._changed = threading.Condition()
        self._waiting: list[FakeHandle] = []
        self._running: list[FakeHandle] = []
        self._stop, self._finish, self.frozen = False, True, False
        self._steps = self._generated = self._prompted = 0
        self._finished = dict.fromkeys(("stop", "length", "cancelled", "error"), 0)
        self._stepped = time.monotonic()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def close(self, finish: bool = True) -> None:
        with self._changed:
            self._stop, self._finish = True, finish
            self._changed.notify_all()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def submit(self, request: Request, listener: Listener) -> FakeHandle:
        length = len(request.sample.tokens)
        if length + request.max_new_tokens > self.config.length:
            raise OlaError(
                f"{length} tokens and {request.max_new_tokens} new ones: more than {self.config.length}"
            )
        handle = FakeHandle(request, listener, self._words(request).split(" "))
        with self._changed:
            if len(self._waiting) >= self.config.queue:
                raise QueueFullError("full")
            self.requests.append(request)
            self._waiting.append(handle)
            self._changed.notify_all()
        return handle

    def status(self) -> EngineStatus:
        with self._changed:
            used = sum(len(h.request.sample.tokens) + len(h.said) for h in self._running)
            return EngineStatus(
                slots=self.config.slots,
                running=len(self._running),
                waiting=len(self._waiting),
                cache_tokens_used=used,
                cache_tokens=self.config.slots * self.config.length,
                last_step_age_seconds=time.monotonic() - self._stepped
                if self._running or self._waiting
                else None,
                steps=self._steps,
                finished=dict(self._finished),
                generated_tokens=self._generated,
                prompt_tokens=self._prompted,
                alive=self._thread.is_alive(),
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                while (self.frozen and not self._stop) or not (self._running or self._waiting or self._stop):
                    self._changed.wait(0.01)
                if self._stop and (not self._finish or not (self._running or self._waiting)):
                    for handle in [*self._running, *self._waiting]:
                        self._end(handle, "cancelled")
                    return
                while self._waiting and len(self._running) < self.config.slots:
                    self._running.append(self._waiting.pop(0))
                self._step()
            time.sleep(self.step_seconds)

    def _step(self) -> None:
        self._steps, self._stepped = self._steps + 1, time.monotonic()
        for handle in list(self._running):
            request, said = handle.request, handle.said
            if handle.cancelled:
                self._end(handle, "cancelled")
                continue
            if len(said) == self._fail_at:
                self._end(handle, "error")
                continue
            text = ("" if not said else " ") + handle.answer[len(said)]
            whole = "".join(said) + text if request.stop else ""
            stops = [whole.index(stop) for stop in request.stop if stop in whole]
            said.append(text if not stops else whole[len("".join(said)) : min(stops)])
            self._generated += 1
            handle.listener(Piece(said[-1], (len(said),)))
            if stops or len(said) == len(handle.answer):
                self._end(handle, "stop")
            elif len(said) == request.max_new_tokens:
                self._end(handle, "length")

    def _end(self, handle: FakeHandle, reason: str) -> None:
        if handle in self._running:
            self._running.remove(handle)
        now, sample = time.monotonic(), handle.request.sample
        handle.completion = Completion(
            text="".join(handle.said),
            ids=tuple(range(len(handle.said))),
            finish_reason=reason,
            prompt_tokens=len(sample.tokens),
            counts=sample.counts,
            cached_tokens=0,
            queue_seconds=0.0,
            first_token_seconds=0.0,
            seconds=now - handle.began,
            error="secret of <Buffer at 0x7f0012>" if reason == "error" else None,
        )
        self._finished[reason] += 1
        self._prompted += len(sample.tokens)
        handle.listener(handle.completion)
        handle.done.set()
