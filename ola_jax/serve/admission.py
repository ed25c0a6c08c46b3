"""Which requests are let in, and when it is their turn: a bounded queue before the engine."""

import asyncio
import contextlib
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
        self.inside, self.waiting, self.held = 0, 0, 0

    @contextlib.contextmanager
    def ticket(self) -> Iterator["Ticket"]:
        """A place for a request until the block ends. Raises ApiError (429) where none is free."""
        if self.inside >= self._most:
            raise busy(f"{self.inside} requests are here already; try again later", 1 + self.waiting / 8)
        self.inside += 1
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.inside -= 1
            self.held -= ticket.held

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
        """Count bytes to a request. Raises ApiError (429) where all requests together hold too many."""
        if self.held + count > self._limits.held_bytes:
            raise busy("requests hold too many bytes; try again later", 5.0)
        self.held += count
        ticket.held += count


class Ticket:
    """The place of one request, and the bytes that it holds."""

    def __init__(self, admission: Admission):
        self._admission, self.held = admission, 0

    def hold(self, count: int) -> None:
        """Count bytes to the request. Raises ApiError (429) where all requests together hold too many."""
        self._admission.hold(self, count)
