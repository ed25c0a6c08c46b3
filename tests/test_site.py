"""The site of documents: its navigation and its picture; `make docs` itself is strict about links."""

import importlib.util
import pathlib
import re
import types

import pytest

from tests.test_layout import PARTS, TIERS, part

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def picture() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs/picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_document_is_in_the_navigation() -> None:
    listed = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(file.name for file in (ROOT / "docs").glob("*.md"))


def test_the_api_reference_names_modules_that_exist() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert named
    for name in named:
        module = re.sub(r"\.[A-Z]\w*$", "", name)
        assert module in PARTS


def test_the_picture_shows_every_part(picture) -> None:
    drawn = picture.draw(ROOT)
    assert all(f'class="name">{name}<' in drawn for tier in TIERS for name in tier)


def test_the_picture_knows_the_imports(picture) -> None:
    files = picture.modules(ROOT)
    assert files.keys() - {"__init__"} == {part(module) for module in PARTS}
    assert picture.imported_parts(files["models"]) >= {"kernels", "config"}


def test_implied_imports_are_not_drawn(picture) -> None:
    assert picture.direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
