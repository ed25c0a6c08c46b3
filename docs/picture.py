"""The picture of the architecture, drawn from the code: packages by tier, with lines of code, and imports.

It imports nothing of the project.
"""

import ast
import collections
import pathlib
from xml.sax.saxutils import escape

WIDTH, BOX, GAP, ROW, MARGIN = 760, 160, 24, 74, 16  # pixels


def tiers(root: pathlib.Path) -> list[list[str]]:
    """The tiers that tests/test_layout.py enforces: a part imports only parts of tiers before its own."""
    tree = ast.parse((root / "tests/test_layout.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "TIERS":
            return [sorted(tier) for tier in ast.literal_eval(node.value)]
    raise ValueError("tests/test_layout.py has no TIERS")


def modules(root: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The files of each part: a package, or a module of its own."""
    found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for file in sorted((root / "ola_jax").rglob("*.py")):
        part = file.relative_to(root / "ola_jax").parts[0].removesuffix(".py")
        found[part].append(file)
    return found


def imported_parts(files: list[pathlib.Path]) -> set[str]:
    """The parts that these files import."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ola_jax":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name.split(".")[1] for name in names}
    return found


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports without those that another import implies, as a line for each would hide the picture."""

    def reached(part: str) -> set[str]:
        return imports[part].union(*(reached(other) for other in imports[part]))

    return {
        part: others - set().union(*(reached(other) for other in others)) for part, others in imports.items()
    }


def draw(root: pathlib.Path) -> str:
    """An SVG: a row for each tier, the lowest at the bottom, and lines for imports."""
    rows, files = tiers(root), modules(root)
    imports = {part: imported_parts(files[part]) & files.keys() - {part} for row in rows for part in row}
    place: dict[str, tuple[float, float]] = {}
    height = 2 * MARGIN + ROW * len(rows)
    boxes, lines = [], []
    for number, row in enumerate(rows):
        y = height - MARGIN - ROW * (number + 1) + 20
        left = (WIDTH - len(row) * BOX - (len(row) - 1) * GAP) / 2
        for column, part in enumerate(row):
            x = left + column * (BOX + GAP)
            place[part] = x, y
            code = sum(len(file.read_text().splitlines()) for file in files[part])
            count = f"{len(files[part])} files, {code:,} lines" if len(files[part]) > 1 else f"{code} lines"
            boxes.append(
                f'<g><rect x="{x:.0f}" y="{y}" width="{BOX}" height="46" rx="6" class="box"/>'
                f'<text x="{x + BOX / 2:.0f}" y="{y + 20}" class="name">{escape(part)}</text>'
                f'<text x="{x + BOX / 2:.0f}" y="{y + 37}" class="count">{count}</text></g>'
            )
    for part, others in direct(imports).items():
        x, y = place[part]
        for other in sorted(others):
            ox, oy = place[other]
            lines.append(
                f'<path class="line" d="M{x + BOX / 2:.0f} {y + 46} C{x + BOX / 2:.0f} {y + 62}, '
                f'{ox + BOX / 2:.0f} {oy - 16}, {ox + BOX / 2:.0f} {oy}"/>'
            )
    style = (
        ".box{fill:#e8eaf6;stroke:#3f51b5}.name{font:600 14px sans-serif;text-anchor:middle;fill:#1a237e}"
        ".count{font:11px sans-serif;text-anchor:middle;fill:#444}"
        ".line{fill:none;stroke:#7986cb;stroke-width:1;opacity:.9}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Parts of ola_jax and their imports"><style>{style}</style>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(lines)}{"".join(boxes)}</svg>\n'
    )
