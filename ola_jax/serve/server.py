"""Running the application on a port."""

import uvicorn
from fastapi import FastAPI

KEEP_ALIVE_SECONDS = 5  # that an idle connection stays open
BACKLOG = 512


def make_server(app: FastAPI, host: str, port: int, shutdown_seconds: int) -> uvicorn.Server:
    """A server; asked to end, it takes no more requests and finishes those that run, for so many seconds."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
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
    )
