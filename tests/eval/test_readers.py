"""Folders of records are read as benchmarks; other files are refused."""

import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.benchmarks import BENCHMARKS
from ola_jax.eval.published import base64_media
from tests.eval.published_files import read_items, write_json


def test_records_are_categories_by_file(tmp_path: pathlib.Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "7"}]
    write_json(
        tmp_path / "heldout/image.json", [{"id": "a", "image": "heldout/x.png", "conversations": turns}]
    )
    write_json(tmp_path / "heldout/media.json", [{}])
    (item,) = read_items("records", tmp_path / "heldout")
    assert (item.id, item.category, item.answers, item.question) == ("image_a", "image", ("7",), "What?")
    write_json(tmp_path / "bad/x.json", [{"conversations": turns[:1]}])
    with pytest.raises(OlaError, match="expected one message from 'human' and one from 'gpt'"):
        read_items("records", tmp_path / "bad")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_other_folders_and_files_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=r"is there|no records"):
        read_items(name, tmp_path)
    for file in ("x.tsv", "x.parquet", "x.json"):
        (tmp_path / file).write_text("nothing\n")
        with pytest.raises(OlaError):
            read_items(name, tmp_path / file)


def test_media_that_are_not_base64_are_named() -> None:
    with pytest.raises(OlaError, match=r"a\.tsv row 3: not base64"):
        base64_media("%", "a.tsv row 3").read()
