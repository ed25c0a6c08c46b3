"""Each of the original's behaviours in docs/parity.md stands beside the code that keeps or fixes it."""

import collections
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
ID = r"[CVSLMPTI]\d{1,2}"
NAMED = re.compile(rf"\bquirks? ({ID}(?:(?:, | and ){ID})*)")
WITHOUT_CODE = "Without effect on any number"  # the section of what is not computed at all


def in_document(text: str) -> tuple[set[str], set[str]]:
    """Ids that need a place in the code, and those that may do without."""
    before, heading, after = text.partition(f"\n{WITHOUT_CODE}\n")
    assert heading
    section, _, rest = after.partition("\n\n")
    ids = lambda part: set(re.findall(rf"\b{ID}\b", part))
    needed = ids(before) | ids(rest)
    return needed, ids(section) - needed


def in_modules(sources: dict[str, str]) -> dict[str, list[str]]:
    """The modules that name each id, such as "quirk V5" or "quirks S3 and S4", on one line: for a search."""
    found = collections.defaultdict(set)
    for module, text in sources.items():
        for names in NAMED.findall(text):
            for name in re.findall(ID, names):
                found[name].add(module)
    return {name: sorted(modules) for name, modules in found.items()}


def problems(document: str, sources: dict[str, str]) -> list[str]:
    needed, free = in_document(document)
    places = in_modules(sources)
    return sorted(
        [f"{name}: in docs/parity.md, in no module" for name in needed - places.keys()]
        + [f"{name}: in {' and '.join(files)}" for name, files in places.items() if len(files) > 1]
        + [f"{name}: in {places[name][0]}, not in docs/parity.md" for name in places.keys() - needed - free]
    )


def test_every_quirk_is_named_in_exactly_one_module() -> None:
    modules = sorted((ROOT / "ola_jax").rglob("*.py"))
    sources = {str(file.relative_to(ROOT)): file.read_text() for file in modules}
    assert problems((ROOT / "docs/parity.md").read_text(), sources) == []


def test_ids_that_are_missing_twice_or_unknown_are_named() -> None:
    document = f"Kept (V1, V2) and S3.\n\n{WITHOUT_CODE}\n- Dummies (V11).\n\nMore (T1).\n"
    sources = {"a.py": "quirks V1 and S3", "b.py": "quirk S3, quirk M4", "c.py": "V2; quirk\nV2; quirk T1"}
    assert problems(document, sources) == [
        "M4: in b.py, not in docs/parity.md",
        "S3: in a.py and b.py",
        "V2: in docs/parity.md, in no module",
    ]
