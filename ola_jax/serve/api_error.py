"""Errors as clients see them: a status and OpenAI's error object."""

import json
from collections.abc import Mapping
from typing import Any

from ola_jax.errors import one_line, shortened

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is refused, or fails; the message is for the client and names nothing of the inside."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.message = shortened(one_line(message), 600)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object of a reply, or of an event in a stream."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def encoded(self) -> bytes:
        """The body as bytes."""
        return json.dumps(self.body()).encode()


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that must be changed before it is sent again."""
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code=code)


def busy(message: str, seconds: float) -> ApiError:
    """The error of a request that may be sent again after `seconds`."""
    wait = {"Retry-After": str(max(round(seconds), 1))}
    return ApiError(429, message, code="rate_limit_exceeded", headers=wait)


def internal() -> ApiError:
    """The error of a fault inside the server, which its log explains."""
    return ApiError(500, "the server failed to answer this request", code="internal_error")
