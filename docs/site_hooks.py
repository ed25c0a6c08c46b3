"""What `make docs` does beside rendering: the picture of the architecture, and links into the repository.

Pages link to files outside docs/, as a forge shows them. The site has no such files: a link to a module that
the API reference describes leads there, any other becomes the name of the file.
"""

import pathlib
import posixpath
import re
from typing import Any

from mkdocs.structure.files import File
from picture import draw  # beside this file

ROOT = pathlib.Path(__file__).parents[1]
PICTURE = "<!-- picture of the architecture -->"
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")


def on_files(files: Any, config: Any) -> None:
    """Adds the picture of the architecture."""
    files.append(File.generated(config, "architecture.svg", content=draw(ROOT)))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replaces the picture's place, and links to files outside docs/.

    Raises FileNotFoundError for a link to a file that does not exist.
    """
    markdown = markdown.replace(PICTURE, "![parts and their imports, drawn from the code](architecture.svg)")
    described = set(re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api.md").read_text(), re.MULTILINE))

    def replace(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = posixpath.normpath(posixpath.join("docs", target.partition("#")[0]))
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_path}: links to {path}, which does not exist")
        module = path.removesuffix(".py").replace("/", ".")
        if module in described:
            return f"[{text}](api.md#{module})"
        return text if text.startswith("`") else f"`{path}`"

    return LINK.sub(replace, markdown)
