"""API keys: every route needs one but /health, and the preflight questions of browsers."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ola_jax.serve.api_error import ApiError

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Callable[[], Awaitable[Scope]], Send], Awaitable[None]]
OPEN = ("/health",)


class RequireKey:
    """An ASGI middleware; the digest of the key that a request brings is put into its scope as "ola_key"."""

    def __init__(self, app: AsgiApp, keys: tuple[str, ...]):
        self._app, self._digests = app, [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Scope]], send: Send) -> None:
        if scope["type"] == "http" and self._digests:
            given = _digest(bearer(dict(scope["headers"]).get(b"authorization", b"")))
            # All are compared, in a time that says nothing of how much of a key is right.
            known = sum([hmac.compare_digest(given, digest) for digest in self._digests])
            scope["ola_key"] = given.hex()
            if not known and scope["method"] != "OPTIONS" and scope["path"] not in OPEN:
                return await _refuse(send)
        await self._app(scope, receive, send)


def bearer(header: bytes) -> str:
    """The key in an Authorization header; "" if it has none."""
    scheme, _, key = header.decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def scoped(key: str, conversation: str) -> str:
    """The name of a client's conversation for the engine: other keys' conversations have other names."""
    return hashlib.sha256(f"{key}\0{conversation}".encode()).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


async def _refuse(send: Send) -> None:
    error = ApiError(401, "no valid API key; send Authorization: Bearer KEY", code="invalid_api_key")
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": error.encoded()})
