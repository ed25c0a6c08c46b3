import pathlib

import pytest

from ola_jax import json_files
from ola_jax.errors import OlaError


def test_what_is_written_is_read(tmp_path: pathlib.Path) -> None:
    values = {"b": [1, 2.5, None], "a": {"text": "Ä\n"}}
    json_files.write_object(tmp_path / "a.json", values)
    assert json_files.read_object(tmp_path / "a.json") == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"not readable as JSON"),
        ("[1]", r"expected a JSON object, found a list"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', r"not readable as JSON \(key 'c' occurs twice\)"),
        (
            '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
            r"not readable as JSON \(brackets are nested too deeply\)",
        ),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(OlaError, match=rf"a\.json: {message}"):
        json_files.read_object(tmp_path / "a.json")
    with pytest.raises(OlaError, match=r"none\.json: not readable"):
        json_files.read_object(tmp_path / "none.json")
