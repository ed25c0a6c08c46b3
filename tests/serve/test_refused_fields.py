"""Requests whose fields are wrong or not supported: a 4xx that names the field."""

import json
from typing import Any

import pytest

from tests.serve.running import MODEL, Running, chat


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", 10**9),
        ("n", True),
        ("best_of", 4),
        ("logprobs", True),
        ("top_logprobs", 5),
        ("prompt_logprobs", 1),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "pcm16"}),
        ("reasoning_effort", "high"),
        ("use_beam_search", True),
        ("temperature", -0.1),
        ("temperature", "0"),
        ("temperature", True),
        ("temperature", [0.5]),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("top_k", -2),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 1.0),
        ("max_tokens", 0),
        ("max_completion_tokens", -5),
        ("max_completion_tokens", "all"),
        ("max_completion_tokens", 10**6),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", [""]),
        ("stop", "x" * 257),
        ("stop", [5]),
        ("stop", "\ud800"),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("stream_options", []),
        ("conversation", ""),
        ("conversation", 5),
        ("conversation", "x" * 257),
        ("messages", []),
        ("messages", "hello"),
        ("messages", None),
        ("prompt_embeds", "gASVAAAA"),
        ("max_frames", 5),
        ("fps", 100),
        ("mm_processor_kwargs", {"fps": 1000}),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Running, field: str, value: Any) -> None:
    if field == "stream_options" and value == []:
        value = ["x"]
    error = server.refused(400, **{field: value})
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


def test_values_that_ask_for_nothing_are_taken(server: Running) -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "tool_choice": "auto",
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "user": "me",
        "metadata": {"a": "b"},
        "stream_options": None,
        "stop": None,
        "audio": None,
        "unknown": None,
        "top_k": -1,
    }
    status, reply, _ = server.post(chat("hello") | nothing)
    assert status == 200, reply


def test_another_model_is_not_found(server: Running) -> None:
    error = server.refused(404, model="gpt-4o")
    assert error["code"] == "model_not_found"
    assert MODEL in error["message"]


def test_two_different_budgets_are_refused(server: Running) -> None:
    assert "max_tokens" in server.refused(400, max_tokens=5, max_completion_tokens=6)["message"]
    assert server.post(chat("hello", max_tokens=5, max_completion_tokens=5))[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"temperature": NaN}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_is_refused(server: Running, body: bytes) -> None:
    status, reply, _ = server.post(body)
    assert status == 400
    assert "body" in reply["error"]["message"]


def test_only_json_is_taken(server: Running) -> None:
    """A web page may send text/plain to any server without asking first."""
    body = json.dumps(chat("hello")).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, reply, _ = server.post(body, headers={"Content-Type": kind})
        assert status == 415, reply
    assert server.post(body, headers={"Content-Type": "application/json; charset=utf-8"})[0] == 200


def test_unknown_addresses_and_methods(server: Running) -> None:
    for path in ("/", "/v1/completions", "/docs", "/openapi.json"):
        status, reply, _ = server.get(path)
        assert (status, reply["error"]["code"]) == (404, "not_found")
    status, reply, _ = server.get("/v1/chat/completions")
    assert (status, reply["error"]["code"]) == (405, "method_not_allowed")


def test_settings_reach_the_engine(server: Running) -> None:
    fields = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 7,
        "repetition_penalty": 1.5,
        "seed": 3,
        "stop": ["x", "y"],
        "max_completion_tokens": 9,
    }
    assert server.post(chat("hello") | fields)[0] == 200
    request = server.engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 0.5, 7)
    assert sampling.repetition_penalty == 1.5
    assert (request.seed, request.stop, request.max_new_tokens) == (3, ("x", "y"), 9)
    assert request.conversation is None


def test_without_a_seed_answers_differ(server: Running) -> None:
    seeds = set()
    for _ in range(3):
        assert server.post(chat("hello", seed=None))[0] == 200
        seeds.add(server.engine.requests[-1].seed)
    assert len(seeds) > 1


def test_what_a_request_leaves_open_is_the_checkpoints(server: Running) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    assert server.post(body)[0] == 200
    request = server.engine.requests[-1]
    assert request.sampling == server.engine.sampling
    assert request.max_new_tokens == 1024


@pytest.mark.parametrize("stop", ["seed", ["zzz", "seed"]])
def test_a_stop_text_ends_the_answer(server: Running, stop: Any) -> None:
    _, reply, _ = server.post(chat("hello", stop=stop))
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "stop"
    assert "seed" not in choice["message"]["content"]


def test_the_budget_ends_the_answer(server: Running) -> None:
    _, reply, _ = server.post(chat("hello", max_tokens=2))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 2
