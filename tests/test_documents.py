"""Documents: width of prose, links and anchors, and what they name: files, make targets, config fields."""

import dataclasses
import pathlib
import re
import typing
from collections.abc import Iterator

import pytest

from ola_jax import checkpoint
from ola_jax.config import ProcessorConfig
from ola_jax.training.config import TrainConfig
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/RESULTS.md"],
    key=lambda file: str(file.relative_to(ROOT)),
)
WIDTH = 100
# What the reader is asked to write.
READERS_OWN = {"configs/mine.py", "ola_jax/data/points.py", "ola_jax/models/points.py"}
FILE = re.compile(r"(?<![\w/.:-])(?:ola_jax|tests|configs|docs|benchmarks|examples)/[\w./-]*\w")
MODULE = re.compile(r"python -m (ola_jax[\w.]*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

each_document = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


def without_code(text: str) -> str:
    """The lines that are neither fenced nor indented code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def wide(text: str) -> list[str]:
    """Lines of prose above WIDTH that could be broken: no tables, no code, no single long word."""
    lines = without_code(text).splitlines()
    return [line for line in lines if len(line) > WIDTH and not line.startswith("|") and " " in line]


def anchors(text: str) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(file: pathlib.Path, text: str) -> Iterator[str]:
    for link in LINK.findall(without_code(text)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield link


def missing(text: str) -> list[str]:
    """Names in a document that the repository does not have: files, modules, scripts, make targets."""
    text = re.sub(r"\w+://\S+", "", text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    places = {path: ROOT / path for path in FILE.findall(text)}
    places |= {f"-m {name}": ROOT / f"{name.replace('.', '/')}.py" for name in MODULE.findall(text)}
    places |= {path: ROOT / path for path in re.findall(r"python ([\w/]+\.py)", text)}
    made = re.findall(r"^(?:    |.*`)make ([a-z-]+)", text, re.MULTILINE)
    return sorted(
        [path for path, place in places.items() if path not in READERS_OWN and not place.exists()]
        + [f"make {target}" for target in made if target not in targets]
    )


def has_field(kind: typing.Any, path: list[str]) -> bool:
    """True if a config of this type has a field at `path`, such as stages.0.steps."""
    if not path:
        return True
    kinds = [kind, *typing.get_args(kind)]
    if typing.get_origin(kind) is tuple:
        return path[0].isdecimal() and has_field(kinds[1], path[1:])
    hints = [typing.get_type_hints(k) for k in kinds if dataclasses.is_dataclass(k)]
    return any(path[0] in names and has_field(names[path[0]], path[1:]) for names in hints)


def unknown_fields(text: str) -> list[str]:
    """Fields of TrainConfig that commands set and that do not exist."""
    paths = re.findall(r"--config((?:\.\w+)+)(?=[=\s`])", text)
    return sorted({path for path in paths if not has_field(TrainConfig, path[1:].split("."))})


@each_document
def test_prose_is_wrapped(file: pathlib.Path) -> None:
    assert wide(file.read_text()) == []


@each_document
def test_links_and_anchors_resolve(file: pathlib.Path) -> None:
    assert list(broken_links(file, file.read_text())) == []


@each_document
def test_what_is_named_exists(file: pathlib.Path) -> None:
    assert missing(file.read_text()) == []


@each_document
def test_config_fields_exist(file: pathlib.Path) -> None:
    assert unknown_fields(file.read_text()) == []


def test_the_config_of_the_readme_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (source,) = [block for block in blocks if "def get_config" in block]
    monkeypatch.setattr(checkpoint, "load_configs", lambda _: (tiny.CONFIG, ProcessorConfig(), {}))
    namespace: dict = {}
    exec(source, namespace)
    assert isinstance(namespace["get_config"](), TrainConfig)


def test_every_part_of_the_package_is_listed() -> None:
    text = (ROOT / "docs/architecture.md").read_text().partition("\n## Files\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^      (\w+)(?:/|\.py) ", text, re.MULTILINE))
    parts = {path.stem for path in (ROOT / "ola_jax").iterdir() if not path.name.startswith(("_", "py."))}
    assert listed == parts


def test_wide_prose_and_dead_names_are_found() -> None:
    long = "word " * 30
    text = f"# A & b: `c`\n\n{long}\n\n    {long}\n\n| {long} |\n\n```\n{long}\n```\n"
    assert wide(text) == [long]
    assert anchors(text) == {"a--b-c"}
    file = ROOT / "docs/architecture.md"
    links = "[a](parity.md) [b](no.md) [c](#the-idea) [d](#no) [e](parity.md#no) [f](https://x.org/no)"
    assert list(broken_links(file, links)) == ["no.md", "#no", "parity.md#no"]
    text = "`ola_jax/no.py`, `docs/parity.md`, python no.py, `python -m ola_jax.no`\n    make no\n"
    assert missing(text) == ["-m ola_jax.no", "make no", "no.py", "ola_jax/no.py"]
    assert unknown_fields("`--config.log=1` --config.stages.0.budget.tokens=8 --config.stages.x=1") == [
        ".log",
        ".stages.x",
    ]
