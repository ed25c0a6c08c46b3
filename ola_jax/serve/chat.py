"""One request to /v1/chat/completions, from its body to the last byte of its answer."""

import asyncio
import contextlib
import logging
import time
import uuid

from fastapi import Request as HttpRequest
from fastapi.responses import Response

from ola_jax.generate.requests import Completion, Piece
from ola_jax.serve.admission import Ticket
from ola_jax.serve.api_error import ApiError, internal
from ola_jax.serve.body import ClientGoneError, Receive, read_body, wait_until_gone
from ola_jax.serve.chat_request import ChatRequest, read_chat_request
from ola_jax.serve.fields import parse_json
from ola_jax.serve.keys import Scope, Send
from ola_jax.serve.replies import DONE, PING, ReplyHead
from ola_jax.serve.service import Service

Events = asyncio.Queue[Piece | Completion]
LOG = logging.getLogger(__name__)


class ChatReply(Response):
    """Reads the request, answers it, and frees its place and its slot as soon as the client goes away."""

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

    async def _reply(self, receive: Receive, send: Send) -> None:
        service = self._service
        with service.admission.ticket() as ticket:
            request = await self._read(receive, ticket)
            gone = asyncio.ensure_future(wait_until_gone(receive))
            work = asyncio.ensure_future(self._work(request, ticket, send))
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

    async def _read(self, receive: Receive, ticket: Ticket) -> ChatRequest:
        """The checked request; its body is not kept."""
        body = await read_body(dict(self._request.headers), receive, ticket, self._limits)
        return await asyncio.to_thread(self._parse, body)

    async def _work(self, request: ChatRequest, ticket: Ticket, send: Send) -> None:
        service = self._service
        async with service.admission.turn():
            prepared = await service.prepare(request, ticket)
            before = time.perf_counter() - self._begin
            key = self._request.scope.get("ola_key", "")
            async with service.answer(request, prepared.sample, key) as events:
                head = ReplyHead(
                    f"chatcmpl-{uuid.uuid4().hex}",
                    int(time.time()),
                    service.config.model_name,
                    request.include_usage,
                )
                out = _Out(send, self._limits.send_seconds)
                reply = self._stream if request.stream else self._whole
                await reply(head, events, out, before)

    def _parse(self, body: bytes) -> ChatRequest:
        return read_chat_request(parse_json(body), self._service.config.model_name, self._limits)

    async def _whole(self, head: ReplyHead, events: Events, out: "_Out", before: float) -> None:
        while not isinstance(event := await events.get(), Completion):
            pass
        self._service.metrics.finished(event, before)
        if error := _error(event):
            raise error
        await out.start("application/json")
        await out.send(head.whole(event), last=True)

    async def _stream(self, head: ReplyHead, events: Events, out: "_Out", before: float) -> None:
        await out.start("text/event-stream")
        await out.send(head.delta({"role": "assistant", "content": ""}))
        while not isinstance(event := await self._next(events, out), Completion):
            if event.text:
                await out.send(head.delta({"content": event.text}))
        self._service.metrics.finished(event, before)
        if error := _error(event):
            await out.send(b"data: " + error.encoded() + b"\n\n")
        else:
            await out.send(head.delta({}, event.finish_reason))
            if head.include_usage:
                await out.send(head.usage(event))
        await out.send(DONE, last=True)

    async def _next(self, events: Events, out: "_Out") -> Piece | Completion:
        """The next event; meanwhile a comment now and then, so that nothing on the way gives up."""
        while True:
            try:
                async with asyncio.timeout(self._service.config.ping_seconds):
                    return await events.get()
            except TimeoutError:
                await out.send(PING)


class _Out:
    """The connection to a client, which must take each part within a time."""

    def __init__(self, send: Send, seconds: float):
        self._send, self._seconds = send, seconds

    async def start(self, kind: str) -> None:
        headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))  # a proxy hands events on at once
        await self._within({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, data: bytes, last: bool = False) -> None:
        await self._within({"type": "http.response.body", "body": data, "more_body": not last})

    async def _within(self, message: Scope) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None


def _error(completion: Completion) -> ApiError | None:
    if completion.finish_reason == "error":
        LOG.error("a request failed: %s", completion.error)
        return internal()
    if completion.finish_reason == "cancelled":
        return ApiError(503, "the server is shutting down", code="shutting_down")
    return None
