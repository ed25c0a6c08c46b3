"""The bound of the queue, and how long it is waited in."""

import concurrent.futures
import contextlib
import pathlib

import pytest
from PIL import Image

from ola_jax.serve.limits import Limits
from tests.serve.running import chat, image, open_request, running, wait_for
from tests.serve.test_streams import long_engine


def test_a_request_beyond_the_queue_is_refused_with_when_to_come_again() -> None:
    engine = long_engine(slots=1)
    with running(engine, Limits(queue=2)) as server, contextlib.ExitStack() as stack:
        body = chat("hello", stream=True, max_tokens=5000)
        for _ in range(5):  # one is answered, two are prepared, two wait
            stack.enter_context(contextlib.closing(open_request(server.port, body)))
        wait_for(lambda: sum(server.get("/health")[1][k] for k in ("running", "waiting")) == 5)
        for _ in range(3):
            status, reply, headers = server.post(chat("hello"))
            assert (status, reply["error"]["type"]) == (429, "rate_limit_error")
            assert int(headers["retry-after"]) >= 1
        assert 'ola_requests_refused_total{status="429"} 3.0' in server.get("/metrics")[1]
        stack.close()
        wait_for(lambda: server.post(chat("hello", max_tokens=2))[0] == 200)


def test_a_request_waits_so_long_and_no_longer() -> None:
    engine = long_engine(slots=1)
    with running(engine, Limits(queue=2, queue_seconds=0.3)) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = open_request(server.port, chat("hello", stream=True, max_tokens=5000))
            stack.enter_context(contextlib.closing(connection))
        wait_for(lambda: engine.status().running + engine.status().waiting == 3)
        status, reply, headers = server.post(chat("hello"))
        assert status == 429
        assert "no turn within 0.3 seconds" in reply["error"]["message"]
        assert int(headers["retry-after"]) >= 1


def test_all_who_wait_are_answered() -> None:
    engine = long_engine(slots=2, step_seconds=0.0)
    with running(engine, Limits(queue=16)) as server:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda n: server.post(chat(f"{n}", max_tokens=50)), range(16)))
        assert [status for status, _, _ in replies] == [200] * 16
        assert engine.status().finished["length"] == 16


def test_bytes_of_all_requests_together_are_bounded() -> None:
    engine = long_engine(slots=1)
    with running(engine, Limits(held_bytes=100_000)) as server:
        assert server.post(chat("x " * 70_000))[0] == 429
        half = chat("hello", stream=True, max_tokens=5000, metadata={"x": "x" * 60_000})
        with contextlib.closing(open_request(server.port, half)):
            wait_for(lambda: engine.status().running)
            assert server.post(half)[1]["error"]["code"] == "rate_limit_exceeded"
        # The bytes are free a moment after the slot is.
        wait_for(lambda: server.post(half | {"stream": False, "max_tokens": 2})[0] == 200)


def test_bytes_of_fetched_media_count_as_well(tmp_path: pathlib.Path) -> None:
    """They are counted as long as their request is there."""
    Image.new("RGB", (300, 200)).save(tmp_path / "a.bmp")  # 180 kB
    part = image(f"file://{tmp_path}/a.bmp")
    with running(long_engine(), Limits(held_bytes=200_000), media_folder=tmp_path) as server:
        for _ in range(3):
            assert server.post(chat("What?", part, max_tokens=2))[0] == 200
        assert server.post(chat("What?", part, part))[0] == 429


@pytest.mark.parametrize("frozen", [True, False])
def test_health_looks_at_the_age_of_the_last_step(frozen: bool) -> None:
    engine = long_engine(slots=1)
    with running(engine, stuck_seconds=0.2) as server:
        assert server.get("/health")[:2] == (
            200,
            {"status": "ok", "running": 0, "waiting": 0, "last_step_age_seconds": None},
        )
        with contextlib.closing(open_request(server.port, chat("hello", max_tokens=5000))):
            wait_for(lambda: engine.status().running)
            engine.frozen = frozen
            if frozen:
                wait_for(lambda: server.get("/health")[0] == 503)
                assert server.get("/health")[1]["status"] == "stuck"
                assert server.get("/ping")[0] == 503
                engine.frozen = False
            else:
                wait_for(lambda: engine.status().steps > 300)
            wait_for(lambda: server.get("/health")[0] == 200)


def test_a_dead_engine_is_not_healthy() -> None:
    engine = long_engine(slots=1)
    with running(engine) as server:
        engine.close()
        assert server.get("/health")[0] == 503
        assert server.get("/health")[1]["status"] == "failed"
