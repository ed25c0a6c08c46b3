"""An engine of one slot that grows with what it is asked, and is waited for."""

import dataclasses
import queue
import threading
from collections.abc import Callable

import jax

from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.generate.device import Report
from ola_jax.generate.engine import Completion, Engine, EngineConfig, Piece, Request
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.models.ola import Ola
from ola_jax.typing import Params

LENGTH = 4096  # tokens of a prompt and its answer, at first


# The model's own dtype; a cache is read by the kernels that serve answers, whatever trained it.
ONE_SLOT = EngineConfig(slots=1, queue=1)


class OneSlot:
    """Answers one request at a time; parameters are asked for, and memory is taken, with the first.

    A request that is longer than those before it gets a larger cache, up to `longest` tokens.
    """

    def __init__(
        self,
        model: Ola,
        params: Callable[[], Params],
        processor: Processor,
        sampling: SamplingConfig,
        longest: int,
        report: Report,
        config: EngineConfig = ONE_SLOT,
    ):
        self._model, self._params, self._processor = model, params, processor
        self._sampling, self._longest, self._report = sampling, longest, report
        self._config = config
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    def answer(self, request: Request, stream: Callable[[str], object] | None = None) -> Completion:
        """The completion; its text is handed to `stream` as it comes, on the caller's thread.

        Whatever `stream` raises ends the answer and is raised. Raises OlaError for what cannot be answered.
        """
        with self._lock:
            engine = self._engine_for(request)
            events: queue.SimpleQueue[Piece | Completion] = queue.SimpleQueue()
            handle = engine.submit(request, events.put)
            try:
                while isinstance(event := events.get(), Piece):
                    if stream is not None and event.text:
                        stream(event.text)
            except BaseException:
                handle.cancel()
                raise
            if event.error is not None:
                raise _explained(event.error, request)
            return event

    def close(self) -> None:
        """End the thread, and give the memory of the cache back."""
        with self._lock:
            self._close()

    def _engine_for(self, request: Request) -> Engine:
        tokens = len(request.sample.tokens) + request.max_new_tokens
        if tokens > self._longest:
            raise OlaError(
                f"the prompt has {len(request.sample.tokens)} tokens and max_new_tokens is "
                f"{request.max_new_tokens}; together at most {self._longest} are allowed: lower "
                "max_new_tokens or shorten the prompt"
            )
        engine = self._engine
        if engine is not None and engine.config.length >= tokens and engine.status().alive:
            return engine
        self._close()
        length = LENGTH
        while length < tokens:
            length *= 2
        config = dataclasses.replace(self._config, length=length)
        try:
            engine = Engine(
                self._model, self._params(), self._processor, self._sampling, config, self._report
            )
        except jax.errors.JaxRuntimeError as error:
            raise _explained(str(error), request) from error
        engine.start()
        self._engine = engine
        return engine

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close(finish=False)
            self._engine = None


def _explained(error: str, request: Request) -> Exception:
    """The error that the caller gets for a failure of the device."""
    if "RESOURCE_EXHAUSTED" in error:
        return OlaError(
            f"a prompt of {len(request.sample.tokens)} tokens, {request.max_new_tokens} new ones: too much "
            "for the device's memory; lower max_new_tokens or shorten the prompt"
        )
    return RuntimeError(error)
