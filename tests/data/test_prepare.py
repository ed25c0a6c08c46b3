import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ola_jax.data.blocks import TEMPORARY
from ola_jax.data.checking import check_source
from ola_jax.data.index import load_index
from ola_jax.data.prepare import Notes, StoreSettings, prepare_source
from ola_jax.data.shards import UNFINISHED
from ola_jax.data.sources import Source, open_table
from ola_jax.errors import OlaError
from tests.data.made_up import tiny_processor, write_json, write_records
from tests.data.mixed_set import write_mixed_set
from tests.data.test_tables import assert_equal_samples

BAD = {3: "missing file", 7: "malformed record", 11: "malformed record"}
GOOD = [index for index in range(15) if index not in BAD]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return Source(write_mixed_set(folder), str(folder))


@pytest.fixture(scope="module")
def prepared(mixed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "set"
    return prepare_source(mixed, tiny_processor(), folder, shard_bytes=6000)


def digests(folder):
    files = sorted(file for file in pathlib.Path(folder).rglob("*") if file.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def samples(source):
    table = open_table(source)
    processor = tiny_processor()
    return [processor.sample(table[i], source.root, training=True) for i in range(len(table))]


def test_records_of_files_and_of_shards_give_the_same_samples(mixed, prepared):
    table, processor = open_table(mixed), tiny_processor()
    found = samples(Source(str(prepared.folder)))
    assert len(found) == len(GOOD)
    lossy = {6, 8, 9}  # videos as JPEG
    rounded = {5, 9}  # audio that is resampled
    for index, stored in zip(GOOD, found, strict=True):
        sample = processor.sample(table[index], mixed.root, training=True)
        assert (sample.id, sample.counts) == (stored.id, stored.counts)
        if index not in lossy | rounded:
            assert_equal_samples(sample, stored)
            continue
        np.testing.assert_array_equal(sample.tokens, stored.tokens)
        np.testing.assert_array_equal(sample.source, stored.source)
        np.testing.assert_allclose(sample.audio, stored.audio, atol=0.5001 / 2**15, rtol=0)
        for a, b in zip(sample.images, stored.images, strict=True):
            assert abs(a.patches.astype(int) - b.patches).max() <= (4 if index in lossy else 0)
    assert prepared.notes == Notes(12, videos_as_jpeg=3, audio_rounded=2, silent_videos=1)


def test_files_that_are_kept_give_the_same_samples_of_videos_too(mixed, tmp_path):
    settings = StoreSettings(video="file", audio="file")
    done = prepare_source(mixed, tiny_processor(), tmp_path / "set", settings=settings)
    assert done.notes == Notes(12)
    table, processor = open_table(mixed), tiny_processor()
    for index, stored in zip(GOOD, samples(Source(str(done.folder))), strict=True):
        assert_equal_samples(processor.sample(table[index], mixed.root, training=True), stored)


def test_bad_records_are_listed_and_left_out(prepared):
    assert {index: failure.kind for index, failure in prepared.failures.items()} == BAD
    lines = [json.loads(line) for line in prepared.bad_path.read_text().splitlines()]
    assert [(line["index"], line["kind"]) for line in lines] == sorted(BAD.items())
    assert "gone.png: no such file" in lines[0]["reason"]


def test_the_index_is_that_of_the_good_records(mixed, prepared):
    index = load_index(prepared.folder / "train.index")
    assert not index.failures
    checked = check_source(Source(str(prepared.folder)), tiny_processor())
    assert checked.index.digest() == index.digest()
    assert checked.index_path == prepared.folder / "train.index"
    of_files = check_source(mixed, tiny_processor()).index
    assert of_files.tokens[GOOD].tolist() == index.tokens.tolist()
    assert {i: f.kind for i, f in of_files.failures.items()} == BAD


def test_tfds_reads_slices_and_random_access_without_tensorflow(prepared):
    builder = tfds.builder_from_directory(str(prepared.folder))
    assert len(list(prepared.folder.glob("*.array_record-*"))) == builder.info.splits["train"].num_shards > 2
    source = builder.as_data_source("train")
    assert [source[i]["id"] for i in (11, 0)] == [b"", b"0"]
    assert len(builder.as_data_source("train[:50%]")) == 6
    assert len(open_table(Source(str(prepared.folder), split="train[25%:50%]"))) == 3
    with pytest.raises(OlaError, match=r"split 'test' cannot be read"):
        open_table(Source(str(prepared.folder), split="test"))


def test_the_files_are_the_same_by_any_number_of_processes(mixed, prepared, tmp_path):
    again = prepare_source(mixed, tiny_processor(), tmp_path / "set", shard_bytes=6000, processes=2)
    assert digests(again.folder) == digests(prepared.folder)


def test_a_folder_of_something_else_or_of_other_settings_is_refused(mixed, prepared, tmp_path):
    with pytest.raises(OlaError, match="is prepared already"):
        prepare_source(mixed, tiny_processor(), prepared.folder)
    (tmp_path / "file").touch()
    with pytest.raises(OlaError, match="the folder is not empty"):
        prepare_source(mixed, tiny_processor(), tmp_path)


def test_unfinished_work_is_neither_read_nor_continued_with_other_settings(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("ola_jax.data.prepare.write_info", lambda *_: 1 / 0)
    folder = tmp_path / "set"
    with pytest.raises(ZeroDivisionError):
        prepare_source(mixed, tiny_processor(), folder)
    monkeypatch.undo()
    assert (folder / UNFINISHED).exists()
    with pytest.raises(OlaError, match=r"expected prepared shards|is not complete"):
        open_table(Source(str(folder)))
    with pytest.raises(OlaError, match=r"unfinished work with other settings \(store\)"):
        prepare_source(mixed, tiny_processor(), folder, settings=StoreSettings(jpeg_quality=50))
    done = prepare_source(mixed, tiny_processor(), folder)
    assert len(open_table(Source(str(done.folder)))) == 12


def test_a_set_of_bad_records_only_is_an_error(tmp_path):
    path = write_json(tmp_path, "r.json", [{"id": "a"}, 3])
    with pytest.raises(OlaError, match=r"all 2 records are bad; the first: .*'conversations'"):
        prepare_source(Source(path), tiny_processor(), tmp_path / "set")


def start_preparing(records, root, folder, *, processes=1, until=0):
    command = [sys.executable, "-m", "tests.data.prepare_run", records, root, folder, processes, until]
    return subprocess.Popen([str(argument) for argument in command], start_new_session=True)


def kill_after_records(records, root, folder):
    """Kills four runs, each in the middle of a shard."""
    for until in (1, 8, 13, 20):
        assert start_preparing(records, root, folder, until=until).wait() == -signal.SIGKILL


def kill_at_times(records, root, folder):
    """Kills four runs of two processes, each a little later after a shard is complete."""
    count, wanted = itertools.count(), 0
    done = lambda: len(list(folder.glob("*.array_record-?????-of-?????")))
    while wanted < 4:
        run = start_preparing(records, root, folder, processes=2)
        while run.poll() is None and done() < wanted + 1:
            time.sleep(0.01)
        time.sleep(0.03 * next(count))
        assert run.poll() is None, "it was not killed"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        wanted = done()
        assert wanted >= 1


@pytest.mark.parametrize("kill", [kill_after_records, pytest.param(kill_at_times, marks=pytest.mark.slow)])
def test_after_kills_at_any_moment_the_files_are_the_same(tmp_path, kill):
    records = write_records(tmp_path, 60, bad=(6,))
    expected = prepare_source(
        Source(records, str(tmp_path)), tiny_processor(), tmp_path / "whole", shard_bytes=1500
    )
    folder = tmp_path / "killed"
    kill(records, tmp_path, folder)
    (folder / f"ola-train.array_record-00001-of-00009{TEMPORARY}1").write_bytes(b"half")
    prepare_source(Source(records, str(tmp_path)), tiny_processor(), folder, shard_bytes=1500)
    assert digests(folder) == digests(expected.folder)
    assert len(expected.failures) == 1
