"""The bytes of streams, and connections that are slow or go away."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ola_jax.serve.limits import Limits
from tests import parity
from tests.serve.fake_engine import EngineConfig, FakeEngine
from tests.serve.running import INPUTS, Running, chat, image, open_request, running, wait_for

LONG = " ".join(["word"] * 5000)


def long_engine(slots: int = 2, queue: int = 8, **options: Any) -> FakeEngine:
    """An engine whose answers take about ten seconds."""
    config = EngineConfig(slots=slots, length=16_384, queue=queue)
    return FakeEngine(parity.processor("infer"), config, words=lambda request: LONG, **options)


@pytest.fixture
def slow() -> Iterator[Running]:
    with running(long_engine()) as found:
        yield found


def events(server: Running, **fields: Any) -> list[str]:
    status, text, headers = server.post(chat("hello", stream=True, **fields))
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert text.endswith("\n\n")
    return text.removesuffix("\n\n").split("\n\n")


def test_the_order_of_events(server: Running) -> None:
    *found, done = events(server, stream_options={"include_usage": True})
    assert done == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in found]
    role, *contents, end, usage = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(c["choices"][0]["delta"].keys() == {"content"} for c in contents)
    assert all(c["choices"][0]["finish_reason"] is None for c in (role, *contents))
    assert end["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], len(contents))
    assert all(c["usage"] is None for c in chunks[:-1])
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({(c["id"], c["created"], c["model"]) for c in chunks}) == 1


def test_without_include_usage_there_is_none(server: Running) -> None:
    *found, _ = events(server)
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in found)


def test_text_is_not_split_within_a_character(server: Running) -> None:
    assert any("你好" in event for event in events(server))


@pytest.fixture(scope="module")
def failing() -> Iterator[Running]:
    with running(FakeEngine(parity.processor("infer"), fail_at=2)) as found:
        yield found


def test_an_error_in_mid_stream_is_an_event(failing: Running) -> None:
    *before, error, done = events(failing)
    assert len(before) == 3
    assert done == "data: [DONE]"
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"
    assert "0x7f" not in error
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{failing.port}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIError, match="failed to answer"),
    ):
        list(client.chat.completions.create(**chat("hello"), stream=True))


def test_an_error_without_a_stream_is_a_status(failing: Running) -> None:
    status, reply, _ = failing.post(chat("hello"))
    assert (status, reply["error"]["code"]) == (500, "internal_error")
    assert "0x7f" not in reply["error"]["message"]


def test_a_stream_without_news_has_comments() -> None:
    with running(long_engine(step_seconds=0.3), ping_seconds=0.05) as server:
        *found, _ = events(server, max_tokens=2)
        assert ": ping" in found
        openai_text = [json.loads(e[6:])["choices"][0]["delta"] for e in found if e.startswith("data: ")]
        assert "".join(d.get("content", "") for d in openai_text) == "word word"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("parts", [["hello"], ["What?", image(INPUTS / "img_rgb.png")]])
def test_a_client_that_goes_away_frees_its_slot(slow: Running, stream: bool, parts: list) -> None:
    """Also where nothing is streamed."""
    sockets = [open_request(slow.port, chat(*parts, stream=stream, max_tokens=5000)) for _ in range(5)]
    wait_for(lambda: slow.engine.status().running == 2)
    status = slow.get("/health")[1]
    assert status["running"] + status["waiting"] <= 5
    for connection in sockets:
        connection.close()
    begin = time.monotonic()
    wait_for(lambda: slow.engine.status().running == slow.engine.status().waiting == 0)
    assert time.monotonic() - begin < 2  # an answer takes ten seconds
    assert slow.post(chat("hello", max_tokens=2))[0] == 200
    wait_for(lambda: slow.get("/health")[1]["waiting"] == 0)
    assert slow.engine.status().finished["stop"] == 0


def test_a_client_that_goes_away_before_its_body_is_there(slow: Running) -> None:
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", slow.port)) as connection:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    assert slow.post(chat("hello", max_tokens=2))[0] == 200


def test_a_client_that_sends_slowly_is_refused() -> None:
    with running(long_engine(), Limits(body_seconds=0.3)) as server:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert b" 408 " in connection.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize("patience", [60.0, 0.5])
def test_a_reader_that_reads_nothing_holds_no_slot(patience: float) -> None:
    """The engine does not wait for it; after a time the connection is given up."""
    big = " ".join(["w" * 12_000] * 1000)  # more than the buffers of connections hold
    engine = FakeEngine(
        parity.processor("infer"),
        EngineConfig(slots=1, length=16_384, queue=4),
        words=lambda request: big,
        step_seconds=0.002 if patience < 60 else 0.0,
    )
    with running(engine, Limits(send_seconds=patience)) as server:
        body = chat("a", stream=True, max_tokens=1000)
        with contextlib.closing(open_request(server.port, body)):
            reason = "stop" if patience == 60.0 else "cancelled"
            wait_for(lambda: engine.status().finished[reason] == 1)
            assert server.post(chat("b", max_tokens=2))[0] == 200


def test_many_connections_that_come_and_go_lose_no_slot() -> None:
    with running(long_engine(slots=3, step_seconds=0.0)) as server:
        for number in range(40):
            connection = open_request(server.port, chat(f"{number}", stream=number % 2 == 0, max_tokens=900))
            if number % 3:
                connection.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    connection.recv(200)
            connection.close()
        wait_for(lambda: server.engine.status().running == server.engine.status().waiting == 0, 40)
        for _ in range(4):
            assert server.post(chat("hello", max_tokens=3))[0] == 200
