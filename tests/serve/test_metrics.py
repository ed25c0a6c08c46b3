"""Figures for Prometheus, and the small routes."""

import importlib.metadata

from prometheus_client.parser import text_string_to_metric_families

from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import INPUTS, Running, audio, chat, running, video


def figures(server: Running) -> dict[tuple[str, tuple], float]:
    status, text, headers = server.get("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_figures_count_what_happened() -> None:
    with running(FakeEngine(parity.processor("infer"))) as server:
        before = figures(server)
        assert before["ola_requests_total", ("stop",)] == 0
        assert before["ola_slots", ()] == 4
        assert server.post(chat("hello"))[0] == 200
        assert server.post(chat("hello", max_tokens=2))[0] == 200
        assert server.post(chat(audio(INPUTS / "a_short.wav")))[0] == 200
        assert server.post(chat(video(INPUTS / "clip.mp4")))[0] == 200
        assert server.post(chat("hello", n=5))[0] == 400
        after = figures(server)
    assert after["ola_requests_total", ("stop",)] == 3
    assert after["ola_requests_total", ("length",)] == 1
    assert after["ola_requests_refused_total", ("400",)] == 1
    assert after["ola_time_to_first_token_seconds_count", ()] == 4
    assert after["ola_request_seconds_count", ()] == 4
    assert 0 < after["ola_media_seconds_total", ("audio",)] < 10
    assert 0 < after["ola_media_seconds_total", ("video",)] < 10
    assert after["ola_prompt_tokens_total", ()] > 0
    assert after["ola_generation_tokens_total", ()] > 3
    assert after["ola_requests_running", ()] == after["ola_requests_waiting", ()] == 0
    assert 0 <= after["ola_cache_usage_ratio", ()] <= 1


def test_two_servers_in_a_process_count_for_themselves(server: Running) -> None:
    with running(FakeEngine(parity.processor("infer"))) as other:
        assert other.post(chat("hello"))[0] == 200
        assert figures(other)["ola_requests_total", ("stop",)] == 1


def test_the_small_routes(server: Running) -> None:
    assert server.get("/version")[1] == {"version": importlib.metadata.version("ola_jax")}
    assert server.get("/ping")[0] == 200
    models = server.get("/v1/models")[1]
    assert models["object"] == "list"
    assert models["data"][0]["max_model_len"] == 8192
