"""The index of a source: in memory, in parts, as a file."""

import json

import numpy as np
import pytest

from ola_jax.data.index import (
    KINDS,
    Failure,
    Index,
    RecordSize,
    concatenate,
    digest_file,
    load_index,
    make_index,
    save_index,
)
from ola_jax.errors import OlaError

SIZES = [
    RecordSize({"tokens": 7, "audio_chunks": 0}, (), "text"),
    RecordSize({"tokens": 70, "audio_chunks": 0}, (4, 16), "image"),
    Failure("missing file", "record 'é': no such file", "video"),
    RecordSize({"tokens": 9, "audio_chunks": 2, "clouds": 1}, (8,), "video with audio"),
]
SETTINGS = {"max_length": 64, "pixels.image_multiple": 32}


def same(a: Index, b: Index) -> bool:
    arrays = all(
        np.array_equal(getattr(a, name), getattr(b, name))
        and getattr(a, name).dtype == getattr(b, name).dtype
        for name in ("counts", "image_offsets", "patches", "kinds")
    )
    return arrays and a.fields == b.fields and dict(a.failures) == dict(b.failures)


def test_an_index_has_the_sizes_of_its_records():
    index = make_index(SIZES)
    assert len(index) == 4
    assert index.tokens.tolist() == [7, 70, 0, 9]
    assert index.chunks.tolist() == [0, 0, 0, 2]
    assert index.column("clouds").tolist() == [0, 0, 0, 1]
    assert index.column("unknown field").tolist() == [0, 0, 0, 0]
    assert [index.images(i).tolist() for i in range(4)] == [[], [4, 16], [], [8]]
    assert [KINDS[kind] for kind in index.kinds] == ["text", "image", "video", "video with audio"]
    assert index.size(1) == RecordSize({"tokens": 70, "audio_chunks": 0, "clouds": 0}, (4, 16), "image")
    assert index.failures == {2: SIZES[2]}
    assert len(make_index([])) == 0


def test_parts_of_an_index_joined_are_the_index():
    index = make_index(SIZES)
    for cut in range(5):
        assert same(concatenate([index[:cut], index[cut:]]), index)
        assert index[:cut].fields == index.fields
    assert same(concatenate([make_index(SIZES[:2]), make_index(SIZES[2:])]), index)
    assert concatenate([make_index([]), index]).digest() == index.digest()


def test_a_saved_index_is_mapped_from_its_file(tmp_path):
    for index in (make_index(SIZES), make_index([]), make_index(SIZES[:1])):
        save_index(tmp_path / "a.index", index, settings=SETTINGS, records="abc")
        loaded = load_index(tmp_path / "a.index", settings=SETTINGS, records="abc")
        assert same(loaded, index)
        assert [file.name for file in tmp_path.iterdir()] == ["a.index"]
    assert isinstance(loaded.counts, np.memmap)


def test_the_file_is_one_of_safetensors(tmp_path):
    import safetensors.numpy

    index = make_index(SIZES)
    save_index(tmp_path / "a.index", index, settings=SETTINGS, records="abc")
    loaded = safetensors.numpy.load_file(tmp_path / "a.index")
    assert np.array_equal(loaded["counts"], index.counts)
    assert np.array_equal(loaded["image_offsets"], index.image_offsets)


def test_an_index_of_other_settings_or_records_is_refused(tmp_path):
    path = tmp_path / "a.index"
    save_index(path, make_index(SIZES), settings=SETTINGS, records="abc")
    with pytest.raises(OlaError, match=r"a\.index: the records have changed since .*ola data prepare"):
        load_index(path, settings=SETTINGS, records="abd")
    with pytest.raises(OlaError, match=r"a\.index: made with max_length = 64, now 65; make the index again"):
        load_index(path, settings=SETTINGS | {"max_length": 65}, records="abc")
    with pytest.raises(OlaError, match="made with new = None, now 1"):
        load_index(path, settings=SETTINGS | {"new": 1})
    assert len(load_index(path)) == 4


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 600, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, keep):
    path = tmp_path / "a.index"
    save_index(path, make_index(SIZES), settings=SETTINGS, records="abc")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OlaError, match=r"a\.index: not an index of records"):
        load_index(path)


@pytest.mark.parametrize("content", [b"[{}]", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "a.index").write_bytes(content)
    with pytest.raises(OlaError, match=r"a\.index: not an index of records"):
        load_index(tmp_path / "a.index")


def test_an_index_that_cannot_be_read_or_written_is_an_error(tmp_path):
    with pytest.raises(OlaError, match="cannot be read"):
        load_index(tmp_path / "none.index")
    with pytest.raises(OlaError, match="cannot be read"):
        digest_file(tmp_path / "none.json")
    with pytest.raises(OlaError, match="cannot be written"):
        save_index(tmp_path / "none" / "a.index", make_index(SIZES), settings={}, records="")


def test_a_digest_is_of_sizes_and_failures():
    digests = {
        make_index(sizes).digest()
        for sizes in (SIZES, SIZES[:3], [*SIZES[:2], RecordSize({}, (), "video"), SIZES[3]], SIZES[::-1])
    }
    assert len(digests) == 4
    assert json.dumps(make_index(SIZES).digest())
