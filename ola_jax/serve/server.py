"""Running the application on a port."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from ola_jax.errors import OlaError, first_line

KEEP_ALIVE_SECONDS = 5  # that an idle connection stays open
BACKLOG = 512


class Server(uvicorn.Server):
    """A server that reports the port that it listens at."""

    def __init__(self, config: uvicorn.Config, report: Callable[[int], None]):
        super().__init__(config)
        self._report = report

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and report the port."""
        await super().startup(sockets)
        if self.started:
            self._report(self.servers[0].sockets[0].getsockname()[1])


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, which does not listen yet. Raises OlaError where it cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            if not 0 <= port < 65536:
                raise OverflowError("a port is from 0 to 65535")
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = stack.enter_context(socket.socket(family, kind))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except (OSError, UnicodeError, OverflowError) as error:
            raise OlaError(f"{host} port {port}: cannot be listened at ({first_line(error)})") from error
        stack.pop_all()
        return bound


def make_server(
    app: FastAPI, shutdown_seconds: int, report: Callable[[int], None] = lambda port: None
) -> Server:
    """A server; asked to end, it takes no more requests and finishes those that run, for so many seconds.

    `report` is called with the port when the server listens.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=shutdown_seconds,
    )
    return Server(config, report)
