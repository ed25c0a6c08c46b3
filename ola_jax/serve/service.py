"""State shared by all requests: engine, decoding processes, queue, metrics."""

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator

from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.requests import SEEDS, Completion, Piece, QueueFullError, Request
from ola_jax.serve.admission import Admission, Ticket
from ola_jax.serve.api_error import ApiError, busy, invalid
from ola_jax.serve.chat_request import ChatRequest
from ola_jax.serve.contract import AnsweringEngine
from ola_jax.serve.keys import scoped
from ola_jax.serve.limits import ServerConfig
from ola_jax.serve.metrics import Metrics
from ola_jax.serve.network import Fetcher
from ola_jax.serve.preparing import Prepared, Preparer
from ola_jax.serve.speaking import SpokenEvent
from ola_jax.serve.voices import ServedVoice

LOG = logging.getLogger(__name__)
AHEAD = 2  # requests beyond the slots whose media are decoded, so that no slot waits for a decoder

AnswerEvent = Piece | Completion | SpokenEvent


class Service:
    """Answers requests; made in a running event loop, closed by `close`."""

    def __init__(self, engine: AnsweringEngine, config: ServerConfig, voice: ServedVoice | None = None):
        self.engine, self.config, self.started = engine, config, time.time()
        self.voice = voice
        self.admission = Admission(engine.config.slots + AHEAD, config.limits)
        self.metrics = Metrics(engine.status, lambda: self.admission.waiting)
        self._decoder = IsolatedDecoder(config.limits.decode_seconds)
        self._threads = concurrent.futures.ThreadPoolExecutor(config.decode_workers, "ola-serve")
        self._preparer = Preparer.of(
            engine.processor,
            self._decoder,
            limits=config.limits,
            fetcher=Fetcher(config.media_hosts, config.private_hosts, config.fetch_seconds),
            local=config.media_folder,
            length=engine.config.length,
        )

    async def prepare(self, request: ChatRequest, ticket: Ticket) -> Prepared:
        """The sample of a request. Raises ApiError for one that cannot be answered."""
        # What has no media does not wait behind those that are fetched and decoded.
        threads = self._threads if any(message.media for message in request.messages) else None
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(threads, self._preparer.prepare, request, ticket.hold)
        self.metrics.prepared(prepared.media_seconds, prepared.decode_seconds)
        return prepared

    @contextlib.asynccontextmanager
    async def answer(
        self, request: ChatRequest, sample: Sample, key: str
    ) -> AsyncIterator["asyncio.Queue[AnswerEvent]"]:
        """The pieces of the answer and its completion as they come; the block's end cancels what still runs.

        The caller may put events of speech into the same queue.

        It ends when the slot is free, for the engine takes no more requests than there are turns.
        Raises ApiError for a request that does not fit, or where the engine has no place (429) or has ended.
        """
        engine_request = self._request(request, sample, key)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[AnswerEvent]()
        ended = asyncio.Event()

        def deliver(event: Piece | Completion) -> None:
            events.put_nowait(event)
            if isinstance(event, Completion):
                ended.set()

        def listen(event: Piece | Completion) -> None:  # called from the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(deliver, event)

        try:
            handle = self.engine.submit(engine_request, listen)
        except QueueFullError:
            raise busy("the queue is full; try again later", 5.0) from None
        except OlaError as error:  # nothing that the client could change
            LOG.error("the engine takes no request: %s", error)
            raise ApiError(503, "the server takes no requests now", code="unavailable") from error
        try:
            yield events
        finally:
            handle.cancel()
            await ended.wait()

    def healthy(self) -> bool:
        """False where the engine has died, or has not finished a step for long while requests run."""
        status = self.engine.status()
        return status.alive and (status.last_step_age_seconds or 0) <= self.config.stuck_seconds

    def close(self) -> None:
        """Let the engine finish what runs, and end the processes for decoding."""
        self._decoder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.close(finish=True)

    def _request(self, request: ChatRequest, sample: Sample, key: str) -> Request:
        tokens, length = len(sample.tokens), self.engine.config.length
        new_tokens = request.max_new_tokens or min(self.config.limits.new_tokens, max(length - tokens, 1))
        if tokens + new_tokens > length:
            raise invalid(
                f"the prompt has {tokens} tokens and max_completion_tokens is {new_tokens}; together at most "
                f"{length} are possible: ask for fewer, or shorten the text or its media",
                "max_completion_tokens" if request.max_new_tokens else "messages",
                "context_length_exceeded",
            )
        return Request(
            sample=sample,
            sampling=request.sampling.config(self.engine.sampling),
            max_new_tokens=new_tokens,
            seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
            stop=request.stop,
            conversation=None if request.conversation is None else scoped(key, request.conversation),
        )
