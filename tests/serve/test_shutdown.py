"""A server that is asked to end finishes what runs."""

import concurrent.futures
import time

import pytest

from tests.serve.running import chat, running, wait_for
from tests.serve.test_streams import long_engine


@pytest.mark.parametrize("stream", [True, False])
def test_what_runs_is_finished(stream: bool) -> None:
    engine = long_engine(slots=1, step_seconds=0.01)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with running(engine) as server:
            body = chat("hello", stream=stream, max_tokens=60)
            replies = [pool.submit(server.post, body) for _ in range(3)]
            wait_for(lambda: engine.status().running == 1 and engine.status().waiting == 2)
            server.server.should_exit = True
        for reply in replies:
            status, found, _ = reply.result(30)
            assert status == 200
            if stream:
                assert '"finish_reason":"length"' in found
                assert found.endswith("data: [DONE]\n\n")
            else:
                assert found["choices"][0]["finish_reason"] == "length"
    assert engine.status().finished["length"] == 3
    assert not engine.status().alive


def test_new_connections_are_refused_meanwhile() -> None:
    engine = long_engine(slots=1, step_seconds=0.01)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with running(engine) as server:
            reply = pool.submit(server.post, chat("hello", max_tokens=100))
            wait_for(lambda: engine.status().running)
            server.server.should_exit = True
            time.sleep(0.3)
            with pytest.raises(OSError, match=r"refused|reset"):
                server.get("/health")
        assert reply.result(30)[0] == 200


def test_what_runs_too_long_is_ended() -> None:
    engine = long_engine(slots=1, step_seconds=0.01)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with running(engine, shutdown_seconds=1) as server:
            reply = pool.submit(server.post, chat("hello", stream=True, max_tokens=5000))
            wait_for(lambda: engine.status().running)
            begin = time.monotonic()
            server.server.should_exit = True
        assert time.monotonic() - begin < 10
        with pytest.raises(Exception, match=r"."):
            reply.result(30)
    assert engine.status().finished["cancelled"] == 1
