"""Reading the body of a request within limits, while it arrives."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ola_jax.serve.admission import Ticket
from ola_jax.serve.api_error import ApiError
from ola_jax.serve.limits import Limits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGoneError(Exception):
    """The client has closed the connection; nobody reads an answer."""


async def read_body(headers: dict[str, str], receive: Receive, ticket: Ticket, limits: Limits) -> bytes:
    """The body. Raises ApiError for one that is no JSON, too large or too slow, before all is read."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a web page sends without asking first is something else
        raise ApiError(415, "expected Content-Type: application/json")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                if len(body) + len(part) > limits.body_bytes:
                    raise _too_large(limits)
                ticket.hold(len(part))
                body += part
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(408, f"the request did not arrive within {limits.body_seconds:g} seconds") from None


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection; after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        413, f"the request has more than {limits.body_bytes} bytes", headers={"Connection": "close"}
    )
