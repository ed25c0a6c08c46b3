"""Documents: width of prose, links and anchors, and the files and make targets that they name."""

import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/RESULTS.md"],
    key=lambda file: str(file.relative_to(ROOT)),
)
WIDTH = 100
READERS_OWN = {"configs/mine.py"}  # what the reader is asked to write
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
    """What a document names and the repository does not have: files, modules, scripts, make targets."""
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


@each_document
def test_prose_is_wrapped(file: pathlib.Path) -> None:
    assert wide(file.read_text()) == []


@each_document
def test_links_and_anchors_resolve(file: pathlib.Path) -> None:
    assert list(broken_links(file, file.read_text())) == []


@each_document
def test_what_is_named_exists(file: pathlib.Path) -> None:
    assert missing(file.read_text()) == []


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
