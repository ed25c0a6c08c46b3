"""Reading and writing JSON objects in files."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ola_jax.errors import OlaError


def read_object(file: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file. Raises OlaError if there is none, or if one of its keys occurs twice."""
    try:
        values = parse_unique(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise OlaError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise OlaError(f"{file}: expected a JSON object, found a {type(values).__name__}")
    return values


def write_object(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented by two spaces."""
    file.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")


def parse_unique(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError also for a key that occurs twice in one object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} occurs twice")
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
