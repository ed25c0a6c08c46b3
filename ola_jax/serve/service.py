"""What all requests of a server share: engine, processes for decoding, queue, figures."""

import asyncio
import concurrent.futures
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.answer import SEEDS
from ola_jax.serve.admission import Admission, Ticket
from ola_jax.serve.api_error import busy, invalid
from ola_jax.serve.chat_request import ChatRequest
from ola_jax.serve.contract import Completion, Engine, Handle, Piece, QueueFullError, Request
from ola_jax.serve.keys import scoped
from ola_jax.serve.limits import ServerConfig
from ola_jax.serve.metrics import Metrics
from ola_jax.serve.network import Fetcher
from ola_jax.serve.preparing import Prepared, Preparer

Result = TypeVar("Result")
AHEAD = 2  # requests beyond the slots whose media are decoded, so that no slot waits for a decoder


class Service:
    """Answers requests; made in a running event loop, closed by `close`."""

    def __init__(self, engine: Engine, config: ServerConfig):
        self.engine, self.config, self.started = engine, config, time.time()
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

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of a function that would keep the event loop from its work."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def prepare(self, request: ChatRequest, ticket: Ticket) -> Prepared:
        """The sample of a request. Raises ApiError for one that cannot be answered."""
        loop = asyncio.get_running_loop()

        def hold(count: int) -> None:  # counted in the loop's thread, which waits for nothing here
            asyncio.run_coroutine_threadsafe(_call(ticket.hold, count), loop).result()

        prepared = await self.in_thread(self._preparer.prepare, request, hold)
        self.metrics.prepared(prepared.media_seconds, prepared.decode_seconds)
        return prepared

    @contextlib.asynccontextmanager
    async def answer(
        self, request: ChatRequest, sample: Sample, key: str
    ) -> AsyncIterator["asyncio.Queue[Piece | Completion]"]:
        """The pieces of the answer and its completion as they come; the block's end cancels what still runs.

        Raises ApiError for a request that does not fit, or (429) where the engine has no place.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Piece | Completion]()

        def listen(event: Piece | Completion) -> None:  # called from the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        handle: Handle | None = None
        try:
            handle = self.engine.submit(self._request(request, sample, key), listen)
        except QueueFullError:
            raise busy("the queue is full; try again later", 5) from None
        except OlaError as error:
            raise invalid(str(error)) from error
        try:
            yield events
        finally:
            handle.cancel()

    def healthy(self) -> bool:
        """False where the engine has died, or has not finished a step for long while requests run."""
        status = self.engine.status()
        late = status.running > 0 and status.last_step_age_seconds > self.config.stuck_seconds
        return status.alive and not late

    def close(self) -> None:
        """Let the engine finish what runs, and end the processes for decoding."""
        self._decoder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.close(finish=True)

    def _request(self, request: ChatRequest, sample: Sample, key: str) -> Request:
        room = max(self.engine.config.length - len(sample.tokens), 1)
        new_tokens = request.max_new_tokens or min(self.config.limits.new_tokens, room)
        return Request(
            sample=sample,
            sampling=request.sampling.config(self.engine.sampling),
            max_new_tokens=new_tokens,
            seed=secrets.randbelow(SEEDS) if request.seed is None else request.seed,
            stop=request.stop,
            conversation=None if request.conversation is None else scoped(key, request.conversation),
        )


async def _call(function: Callable[[int], None], count: int) -> None:
    function(count)
