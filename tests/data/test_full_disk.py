"""Preparing on a full disk: nothing half-written is left, and the work is resumed."""

import contextlib
import errno
import os
import pathlib
import resource

import pytest

from ola_jax.data import prepare
from ola_jax.data.blocks import TEMPORARY
from ola_jax.data.checking import check_source
from ola_jax.data.prepare import prepare_source
from ola_jax.data.sources import Source
from ola_jax.errors import OlaError
from tests.data.made_up import tiny_processor, write_records


@contextlib.contextmanager
def file_size_limit(size):
    """No file grows beyond this size, as on a full disk; only the error's number differs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder):
    return {file.name: file.read_bytes() for file in pathlib.Path(folder).iterdir() if file.is_file()}


def prepare_to(folder, source):
    return prepare_source(source, tiny_processor(), folder, shard_bytes=1500)


def test_an_interrupted_set_is_complete_once_there_is_room(tmp_path):
    """Limits at which plan, shards, indices and notes fail in turn."""
    source = Source(write_records(tmp_path, 24, bad=(6,)), str(tmp_path))
    prepare_to(tmp_path / "whole", source)
    expected = contents(tmp_path / "whole")
    messages = []
    for limit in (60, 110, 900, 1100, 1300, 2000, 70_000, 140_000):
        with file_size_limit(limit):
            try:
                prepare_to(tmp_path / "set", source)
            except OlaError as error:
                messages.append(str(error))
        kept = contents(tmp_path / "set")
        assert not [name for name in (tmp_path / "set").rglob("*") if TEMPORARY in name.name]
        assert all(expected[name] == data for name, data in kept.items())
        assert (tmp_path / "set/.unfinished").exists() == (kept != expected)
    assert all("cannot be written" in message for message in messages)
    assert any("plan.json: " in message for message in messages)
    assert any(".array_record-" in message for message in messages)
    assert contents(tmp_path / "set") == expected


def test_metadata_that_cannot_be_written_are_written_by_the_next_run(tmp_path, monkeypatch):
    source = Source(write_records(tmp_path, 6), str(tmp_path))

    def fail(folder, *_):
        (folder / "dataset_info.json").write_text('{"na')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_info", fail)
        with pytest.raises(OlaError, match=r"metadata cannot be written \(No space left on device\)"):
            prepare_to(tmp_path / "set", source)
    with pytest.raises(OlaError, match="is not complete; run the same `ola data prepare` again"):
        check_source(Source(str(tmp_path / "set")), tiny_processor())
    assert len(prepare_to(tmp_path / "set", source).index) == 6


def test_an_index_that_cannot_be_written_is_written_by_the_next_check(tmp_path):
    source = Source(write_records(tmp_path, 30), str(tmp_path))
    before = set(tmp_path.iterdir())
    with (
        file_size_limit(500),
        pytest.raises(OlaError, match=r"the index cannot be written \(File too large\)"),
    ):
        check_source(source, tiny_processor())
    assert {file.name for file in set(tmp_path.iterdir()) - before} == {"records.json.index.parts"}
    assert len(check_source(source, tiny_processor()).index) == 30
