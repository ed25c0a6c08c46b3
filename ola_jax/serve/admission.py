"""A bounded queue before the engine: which requests are admitted, and when."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

from ola_jax.serve.api_error import busy
from ola_jax.serve.limits import Limits


class Admission:
    """Counts requests and the bytes that they hold; of one event loop.

    At most `turns` requests are decoded or answered at a time; others wait, with nothing decoded.
    """

    def __init__(self, turns: int, limits: Limits):
        self._turns, self._limits = asyncio.Semaphore(turns), limits
        self._most = turns + limits.queue
        self._lock = threading.Lock()
        self._inside, self._held = 0, 0
        self.waiting = 0  # requests that wait for their turn

    @contextlib.contextmanager
    def ticket(self) -> Iterator["Ticket"]:
        """A place for a request until the block ends. Raises ApiError (429) where none is free."""
        with self._lock:
            if self._inside >= self._most:
                raise busy(f"{self._inside} requests are here already; try again later", 1 + self.waiting / 8)
            self._inside += 1
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self._end(ticket)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The turn of a request, from when it comes. Raises ApiError (429) where it does not come in time."""
        self.waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._turns.acquire()
        except TimeoutError:
            message = f"no turn within {self._limits.queue_seconds:g} seconds; try again later"
            raise busy(message, 1 + self.waiting / 8) from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    def hold(self, ticket: "Ticket", count: int) -> None:
        """Implements Ticket.hold."""
        with self._lock:
            if ticket.ended or self._held + count > self._limits.held_bytes:
                raise busy("requests hold too many bytes; try again later", 5.0)
            self._held += count
            ticket.held += count

    def _end(self, ticket: "Ticket") -> None:
        with self._lock:
            ticket.ended = True
            self._held -= ticket.held
            self._inside -= 1


class Ticket:
    """The place of one request, and the bytes that it holds."""

    def __init__(self, admission: Admission):
        self._admission, self.held, self.ended = admission, 0, False

    def hold(self, count: int) -> None:
        """Count bytes to the request; from any thread.

        Raises ApiError (429) where all requests together hold too many.
        """
        self._admission.hold(self, count)
