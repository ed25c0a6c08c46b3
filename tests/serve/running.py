"""A server on a free port, in a thread, and connections to it."""

import contextlib
import http.client
import json
import pathlib
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from ola_jax.serve.app import create_app
from ola_jax.serve.limits import Limits, ServerConfig
from ola_jax.serve.server import bind, make_server
from ola_jax.serve.voices import ServedVoice
from tests import golden

INPUTS = golden.VISIBLE / "inputs"
MODEL = "tiny-ola"


class Running:
    """A server that runs, and its engine."""

    def __init__(self, engine: Any, server: Any, port: int):
        self.engine, self.server, self.port = engine, server, port

    def post(
        self, body: Any, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of the reply to a JSON body (or bytes)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, data, {"Content-Type": "application/json"} | (headers or {}))

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
        return self.ask("GET", path, None, headers or {})

    def ask(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            text = reply.read()
            found = {name.lower(): value for name, value in reply.getheaders()}
            is_json = found.get("content-type", "").startswith("application/json")
            return reply.status, json.loads(text) if is_json else text.decode(), found

    def refused(self, status: int, **fields: Any) -> dict[str, Any]:
        """The error object of a request that must be refused with this status."""
        found, reply, _ = self.post(chat("hello") | fields)
        assert found == status, reply
        return reply["error"]


@contextlib.contextmanager
def running(
    engine: Any,
    limits: Limits | None = None,
    shutdown_seconds: int = 20,
    voice: ServedVoice | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server of the engine; at the end it is asked to shut down, as by a signal."""
    config = ServerConfig(MODEL, limits=limits or Limits(), **settings)
    ports: list[int] = []
    server = make_server(create_app(engine, config, voice), shutdown_seconds, ports.append)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bind("127.0.0.1", 0)]})
    thread.start()
    wait_for(lambda: ports or not thread.is_alive(), seconds=60.0)
    try:
        yield Running(engine, server, ports[0])
    finally:
        server.should_exit = True
        thread.join(40)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
    return value


def chat(*parts: Any, **fields: Any) -> dict[str, Any]:
    """The body of a request with one message of these parts: texts or objects."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    message = {
        "role": "user",
        "content": parts[0] if len(parts) == 1 and isinstance(parts[0], str) else content,
    }
    return {"model": MODEL, "messages": [message], "temperature": 0, "seed": 7} | fields


def data_url(data: bytes, kind: str = "application/octet-stream") -> str:
    return f"data:{kind};base64,{b64encode(data).decode()}"


def image(data: bytes | pathlib.Path | str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data)}}


def video(data: bytes | pathlib.Path | str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url(data)}}


def audio(data: bytes | pathlib.Path) -> dict[str, Any]:
    data = data.read_bytes() if isinstance(data, pathlib.Path) else data
    return {"type": "input_audio", "input_audio": {"data": b64encode(data).decode(), "format": "wav"}}


def url(data: bytes | pathlib.Path | str) -> str:
    if isinstance(data, str):
        return data
    return data_url(data.read_bytes() if isinstance(data, pathlib.Path) else data)


def open_request(port: int, body: dict[str, Any], headers: str = "") -> socket.socket:
    """A connection on which the request was sent and nothing read."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection
