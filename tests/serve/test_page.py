"""The page's files; tests/browser has what they do."""

import importlib.resources
import re

import pytest

from ola_jax.serve import page
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import Running, running


def test_there_is_no_page_unless_it_is_asked_for(server: Running) -> None:
    assert server.get("/")[0] == 404
    assert server.get("/page/page.js")[0] == 404


def test_the_page_and_its_files_need_no_key_and_load_nothing_from_elsewhere() -> None:
    with running(FakeEngine(parity.processor("infer")), api_keys=("secret-key",), page=True) as server:
        status, text, headers = server.get("/")
        assert status == 200
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in headers["content-security-policy"]
        names = re.findall(r'(?:href|src)="(/[^"]*)"', text)
        assert len(names) == 2
        for name in (*names, *page.PATHS):
            status, file, headers = server.get(name)
            assert status == 200
            assert (
                headers["content-type"].partition(";")[0]
                == page.TYPES[name.rpartition("/")[2] or "index.html"].partition(";")[0]
            )
            assert not re.search(r"https?://", file)
        assert server.get("/page/other.js")[0] == 401
        assert server.get("/v1/models")[0] == 401


def test_all_files_of_the_page_are_served() -> None:
    folder = importlib.resources.files("ola_jax.serve") / "static"
    assert {file.name for file in folder.iterdir()} == set(page.TYPES)


@pytest.mark.parametrize("name", page.TYPES)
def test_files_of_the_page_are_short(name: str) -> None:
    file = importlib.resources.files("ola_jax.serve") / "static" / name
    assert len(file.read_text().splitlines()) <= 600
