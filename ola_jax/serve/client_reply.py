"""Common parts of replies to POST requests: the body, a client that disconnects, the connection."""

import abc
import asyncio
import contextlib
import time
from typing import Generic, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import Response

from ola_jax.serve.admission import Ticket
from ola_jax.serve.api_error import ApiError
from ola_jax.serve.body import ClientGoneError, Receive, read_body, wait_until_gone
from ola_jax.serve.keys import Scope, Send
from ola_jax.serve.service import Service

Parsed = TypeVar("Parsed")


class Connection:
    """Sends to a client, which must take each part within a time."""

    def __init__(self, send: Send, seconds: float):
        self._send, self._seconds = send, seconds

    async def start(self, kind: str) -> None:
        """Send the head of a reply of this media type."""
        headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))  # a proxy hands events on at once
        await self._within({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, data: bytes, last: bool = False) -> None:
        """Send a part of the reply. Raises ClientGoneError where it is not taken in time."""
        await self._within({"type": "http.response.body", "body": data, "more_body": not last})

    async def _within(self, message: Scope) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None


class ClientReply(Response, abc.ABC, Generic[Parsed]):
    """Reads a request, answers it, and frees what it uses as soon as the client goes away."""

    def __init__(self, service: Service, request: HttpRequest):
        super().__init__()
        self._service, self._limits = service, service.config.limits
        self._request, self._begin = request, time.perf_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._reply(receive, send)
        except ClientGoneError:
            pass
        except ApiError as error:
            self._service.metrics.refused(error.status)
            raise

    @abc.abstractmethod
    def _parse(self, body: bytes) -> Parsed:
        """The checked request; called on a thread."""

    @abc.abstractmethod
    async def _work(self, request: Parsed, ticket: Ticket, out: Connection) -> None:
        """Answer the request; cancelled when the client goes away."""

    async def _reply(self, receive: Receive, send: Send) -> None:
        with self._service.admission.ticket() as ticket:
            request = await self._read(receive, ticket)
            gone = asyncio.ensure_future(wait_until_gone(receive))
            work = asyncio.ensure_future(
                self._work(request, ticket, Connection(send, self._limits.send_seconds))
            )
            try:
                await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    raise ClientGoneError
                await work
            finally:
                for task in (work, gone):
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ApiError, ClientGoneError):
                    await work  # its slot is free when this returns

    async def _read(self, receive: Receive, ticket: Ticket) -> Parsed:
        """The checked request; its body is not kept."""
        body = await read_body(dict(self._request.headers), receive, ticket, self._limits)
        return await asyncio.to_thread(self._parse, body)
