"""API keys, web pages of other origins, and what belongs to whom."""

from collections.abc import Iterator

import pytest

from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, chat, running

KEY, OTHER = "sk-first-key", "sk-second-key"
ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    engine = FakeEngine(parity.processor("infer"))
    with running(engine, api_keys=(KEY, OTHER), cors_origins=(ORIGIN,)) as found:
        yield found


def with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/ping", "/", "/nothing", "/health/"])
def test_every_route_needs_a_key(locked: Running, path: str) -> None:
    status, reply, headers = locked.get(path)
    assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
    assert headers["www-authenticate"] == "Bearer"
    assert locked.get(path, with_key(KEY))[0] in (200, 404)


def test_health_needs_none(locked: Running) -> None:
    assert locked.get("/health")[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY.upper()}",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY} {OTHER}",
        "Bearer \xff\xfe",
    ],
)
def test_other_keys_are_refused(locked: Running, header: str) -> None:
    headers = {"Authorization": header} if header else {}
    assert locked.post(chat("hello"), headers=headers)[0] == 401
    assert not [r for r in locked.engine.requests if r.seed == 99]


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_each_key_opens(locked: Running, key: str, scheme: str) -> None:
    assert locked.post(chat("hello"), headers={"Authorization": f"{scheme} {key}"})[0] == 200


def test_a_preflight_needs_no_key(locked: Running) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    status, _, found = locked.ask("OPTIONS", "/v1/chat/completions", None, headers)
    assert status == 200
    assert found["access-control-allow-origin"] == ORIGIN
    assert "authorization" in found["access-control-allow-headers"].lower()
    status, _, found = locked.ask("OPTIONS", "/v1/chat/completions", None, headers | {"Origin": "https://x"})
    assert "access-control-allow-origin" not in found
    assert locked.ask("OPTIONS", "/v1/chat/completions", None, {})[0] == 204
    assert locked.ask("OPTIONS", "/nothing", None, {})[0] == 204


def test_a_page_can_read_answers_and_errors(locked: Running) -> None:
    for headers, expected in ((with_key(KEY), 200), ({}, 401)):
        status, _, found = locked.post(chat("hello"), headers=headers | {"Origin": ORIGIN})
        assert status == expected
        assert found["access-control-allow-origin"] == ORIGIN


def test_other_origins_are_not_answered_by_default(server: Running) -> None:
    _, _, found = server.post(chat("hello"), headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in found
    assert server.ask("OPTIONS", "/v1/models", None, {"Origin": ORIGIN})[0] == 204


def test_a_conversation_belongs_to_its_key(locked: Running) -> None:
    """CVE-2025-25183: no one can guess the name under which another's is kept."""
    names = []
    for key, name in ((KEY, "a"), (KEY, "a"), (OTHER, "a"), (KEY, "b")):
        assert locked.post(chat("hello", conversation=name), headers=with_key(key))[0] == 200
        names.append(locked.engine.requests[-1].conversation)
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert "a" not in names
    assert locked.post(chat("hello"), headers=with_key(KEY))[0] == 200
    assert locked.engine.requests[-1].conversation is None
