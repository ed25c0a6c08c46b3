import json

import pytest

from ola_jax.data import checking
from ola_jax.data.checking import check_source, part_path
from ola_jax.data.identity import digest_records, source_index_path
from ola_jax.data.index import load_index
from ola_jax.data.measure import describe_settings
from ola_jax.data.report import describe_index, draw_histograms, measures
from ola_jax.data.sources import Source
from ola_jax.errors import OlaError
from tests.data.made_up import tiny_processor, write_records
from tests.data.mixed_set import write_mixed_set


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(checking, "BLOCK_RECORDS", 4)


@pytest.mark.usefixtures("small_blocks")
def test_a_check_writes_the_index_and_lists_the_bad_records(tmp_path):
    source = Source(write_mixed_set(tmp_path), str(tmp_path))
    seen = []
    found = check_source(source, tiny_processor(), progress=lambda done, total: seen.append((done, total)))
    assert (seen[0], seen[-1]) == ((0, 15), (15, 15))
    assert found.index_path == source_index_path(source.records)
    settings = describe_settings(tiny_processor())
    index = load_index(found.index_path, settings=settings, records=digest_records(source.records))
    assert index.digest() == found.index.digest()
    bad = [json.loads(line) for line in found.bad_path.read_text().splitlines()]
    assert [(line["index"], line["kind"]) for line in bad] == [
        (3, "missing file"),
        (7, "malformed record"),
        (11, "malformed record"),
    ]
    assert not found.index_path.with_name("mixed.json.index.parts").exists()


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_check_measures_no_record_twice(tmp_path, monkeypatch):
    source = Source(write_records(tmp_path, 20, bad=(6,)), str(tmp_path))
    expected = check_source(source, tiny_processor()).index
    measured, original = [], checking.measure_block

    def stop_after_two(table, block, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(block)
        return original(table, block, *rest)

    monkeypatch.setattr(checking, "measure_block", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        check_source(source, tiny_processor())
    monkeypatch.setattr(checking, "measure_block", lambda *args: measured.append(args[1]) or original(*args))
    found = check_source(source, tiny_processor())
    assert found.index.digest() == expected.digest()
    assert sorted(block.start for block in measured) == [0, 4, 8, 12, 16]


@pytest.mark.usefixtures("small_blocks")
def test_parts_of_other_records_are_not_used(tmp_path):
    source = Source(write_records(tmp_path, 8), str(tmp_path))
    found = check_source(source, tiny_processor())
    parts = found.index_path.with_name(f"{found.index_path.name}.parts")
    parts.mkdir()
    part_path(parts, checking.Block(0, 0, 4)).write_bytes(b"damaged")
    assert check_source(source, tiny_processor()).index.digest() == found.index.digest()


def test_two_checks_of_one_file_at_the_same_time_are_refused(tmp_path):
    source = Source(write_records(tmp_path, 3), str(tmp_path))
    with (
        checking.locked(tmp_path / "records.json.index.parts"),
        pytest.raises(OlaError, match="another process is at work"),
    ):
        check_source(source, tiny_processor())


def test_a_report_has_kinds_failures_and_lengths(tmp_path):
    source = Source(write_mixed_set(tmp_path), str(tmp_path))
    index = check_source(source, tiny_processor()).index
    text = describe_index(index)
    assert text.startswith("15 records, 12 good, 3 bad\n")
    for line in ("video with audio", "missing file", "tokens of a record: 12 with any", "audio chunks"):
        assert line in text
    found = measures(index)
    assert found["patches of a record"].sum() == index.patches.sum()
    assert len(found["patches of a view or frame"]) == len(index.patches)
    draw_histograms(index, tmp_path / "h.png", "mixed")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")


def test_blocks_that_follow_each_other_are_measured_together():
    blocks = [checking.Block(n, 4 * n, 4 * n + 4) for n in (0, 1, 2, 4, 5, 6, 7)]
    groups = checking._group(blocks, 3)
    assert [(group.start, group.stop) for group in groups] == [(0, 12), (16, 28), (28, 32)]
    assert checking._group(blocks, 0) == blocks
