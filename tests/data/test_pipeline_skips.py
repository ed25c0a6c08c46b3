"""Bad records in the training input: skipped with a reason, counted by kind, an error above the limit."""

import json
import logging

import pytest
from PIL import Image

from ola_jax.data import Source
from ola_jax.errors import OlaError
from tests.data.batches import iterate, record_ids
from tests.data.made_up import conversation, tiny_processor, write_json, write_records


def test_bad_records_are_logged_and_counted_once_and_skipped(tmp_path, caplog):
    source = Source(write_records(tmp_path, 12, bad=(3, 7)), str(tmp_path))
    with caplog.at_level(logging.WARNING, "ola_jax.data.skips"):
        iterator = iterate([source], epochs=3, max_skipped=2)
        batches = list(iterator)
    assert len(record_ids(batches)) == 3 * 10
    assert sorted(skip.index for skip in iterator.skips) == [3, 7]
    assert batches[-1].skipped == {"missing file": 2}
    assert len(caplog.messages) == 2
    assert any("record 'r7'" in text and "missing.png: no such file" in text for text in caplog.messages)


def test_more_bad_records_than_the_limit_are_an_error(tmp_path):
    source = Source(write_records(tmp_path, 12, bad=(3, 7)), str(tmp_path))
    message = r"2 bad records, at most 1 may be skipped \(max_skipped, .*missing\.png"
    with pytest.raises(OlaError, match=message):
        list(iterate([source], epochs=1, max_skipped=1))


def test_skipped_records_are_counted_by_kind(tmp_path):
    write_records(tmp_path, 7, bad=(0,))
    records = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "records.json3.png").write_bytes(b"not an image")
    records[1]["conversations"] = []
    records[2]["conversations"][1]["value"] = "y" * 200
    source = Source(write_json(tmp_path, "records.json", records), str(tmp_path))
    batches = list(iterate([source], epochs=1, max_skipped=4))
    kinds = ("missing file", "unreadable media", "malformed record", "too large")
    assert batches[-1].skipped == dict.fromkeys(kinds, 1)


def test_records_without_a_token_of_an_answer_are_skipped(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "i.png")
    records = [
        conversation("good", "answer"),
        conversation("a question alone"),
        conversation("no words", ""),
        conversation("<image>\n" * 10, "hidden behind images", image=["i.png"] * 10),
    ]
    source = Source(write_json(tmp_path, "r.json", records), str(tmp_path))
    processor = tiny_processor(max_length=90)
    iterator = iterate([source], processor=processor, max_skipped=3, epochs=1)
    assert [record.index for record in record_ids(iterator)] == [0]
    assert {skip.index: skip.kind for skip in iterator.skips} == {
        1: "nothing to learn",
        2: "nothing to learn",
        3: "too large",
    }
    with pytest.raises(OlaError, match=r"max_length is 90: no token|no answer of 'gpt'"):
        list(iterate([source], processor=processor, epochs=1))


def test_a_sample_that_fits_no_row_is_a_bad_record(tmp_path):
    path = write_json(tmp_path, "r.json", [conversation("x", "y" * 200, id="long")])
    with pytest.raises(OlaError, match=r"record 'long'.* tokens, a row holds 160"):
        next(iterate([Source(path)]))


def test_marks_are_text_only_in_sources_with_that_setting(tmp_path):
    path = write_json(tmp_path, "r.json", [conversation("What is <image>?", "a <video> mark")])
    with pytest.raises(OlaError, match="'<image>' in the text and no image or video"):
        next(iterate([Source(path)]))
    batch = next(iterate([Source(path, marks_are_text=True)])).batch
    text = tiny_processor().tokenizer.decode(batch.tokens[0][batch.segments[0] == 1].tolist())
    assert "What is <image>?" in text


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_elements_that_are_not_records_are_skipped_one_by_one(tmp_path, name):
    records = [conversation("a", "b", id="first"), 7, ["x"], None, conversation("c", "d", id="last")]
    source = Source(write_json(tmp_path, name, records))
    iterator = iterate([source], epochs=1, max_skipped=3)
    (batch,) = list(iterator)
    assert sorted(record.id for record in record_ids([batch])) == ["first", "last"]
    assert batch.skipped == {"malformed record": 3}
    assert all("expected a JSON object, found" in skip.reason for skip in iterator.skips)
    with pytest.raises(OlaError, match=r"3 bad records, at most 2 may be skipped"):
        list(iterate([source], epochs=1, max_skipped=2))


def test_a_line_that_is_not_json_is_skipped_with_its_number(tmp_path):
    good = json.dumps(conversation("a", "b"))
    lines = [good, '{"conversations": [', "[" * 100_000, good]
    (tmp_path / "r.jsonl").write_bytes("\r\n".join(lines).encode() + b'\n{"id": "\xff"}\n')
    iterator = iterate([Source(str(tmp_path / "r.jsonl"))], epochs=1, max_skipped=3)
    assert len(list(iterator)) == 1
    reasons = {skip.index: skip.reason for skip in iterator.skips}
    assert [reasons[i].split(": ")[0] for i in (1, 2, 4)] == ["line 2", "line 3", "line 5"]


@pytest.mark.parametrize("weights", [(None, None), (1.0, 2.0)])
@pytest.mark.parametrize("threads", [0, 2])
def test_the_same_bad_file_in_two_sources_is_an_error(tmp_path, weights, threads):
    path = write_records(tmp_path, 3, bad=(0, 1, 2))
    sources = [Source(path, str(tmp_path), weight) for weight in weights]
    with pytest.raises(OlaError, match=r"records\.json: all 3 records are bad"):
        next(iterate(sources, max_skipped=100, workers=threads))


@pytest.mark.parametrize("weights", [(None, None), (9.0, 1.0)])
def test_a_bad_source_beside_a_good_one_is_an_error(tmp_path, weights):
    good = Source(write_records(tmp_path, 5, "good.json"), str(tmp_path), weights[0])
    bad = Source(write_records(tmp_path, 4, "bad.json", bad=range(4)), str(tmp_path), weights[1])
    with pytest.raises(OlaError, match=r"bad\.json: all 4 records are bad"):
        iterate([good, bad], max_skipped=100)


def test_a_source_of_samples_that_fit_no_row_is_an_error(tmp_path):
    records = [conversation("x", "y" * 200), conversation("y", "z" * 200)]
    source = Source(write_json(tmp_path, "r.json", records))
    with pytest.raises(OlaError, match=r"all 2 records are bad.* tokens, a row holds 160"):
        next(iterate([source], max_skipped=100))


def test_one_good_record_fills_the_rows_of_all_processes(tmp_path):
    one_good = Source(write_records(tmp_path, 6, bad=(0, 1, 2, 3, 4)), str(tmp_path))
    for index in range(3):
        iterator = iterate([one_good], max_skipped=5, process_index=index, process_count=3, batch_rows=3)
        assert {record.id for record in record_ids([next(iterator)])} == {"r5"}
        iterator.close()


def test_a_share_of_the_records_may_be_skipped(tmp_path):
    source = Source(write_records(tmp_path, 10, bad=(1, 2)), str(tmp_path))
    for allowed in ({"max_bad_fraction": 0.2}, {"max_skipped": 2, "max_bad_fraction": 0.1}):
        assert len(iterate([source], **allowed).skips) == 2
    with pytest.raises(OlaError, match="2 bad records, at most 1 may be skipped"):
        iterate([source], max_bad_fraction=0.19)


def test_a_record_whose_size_is_not_that_of_its_index_leaves_a_hole(tmp_path, source):
    """The rows around it are what they were; a row never overflows."""
    complete = list(iterate([source], epochs=1))
    iterator = iterate([source], epochs=1, max_skipped=2)
    Image.new("RGB", (30, 12)).save(tmp_path / "records.json6.png")
    (tmp_path / "records.json9.png").unlink()
    batches = list(iterator)
    assert {(skip.index, skip.kind) for skip in iterator.skips} == {
        (6, "changed record"),
        (9, "missing file"),
    }
    assert batches[-1].skipped == {"changed record": 1, "missing file": 1}
    reason = next(skip.reason for skip in iterator.skips if skip.index == 6)
    assert "record 'r6': has " in reason
    assert "in its index: it or its media changed" in reason
    for one, other in zip(batches, complete, strict=True):
        for row, before in zip(one.record_ids, other.record_ids, strict=True):
            assert row == tuple(record for record in before if record.index not in (6, 9))
        if one.record_ids == other.record_ids:
            assert one.batch.patches.tobytes() == other.batch.patches.tobytes()
            assert one.batch.tokens.tobytes() == other.batch.tokens.tobytes()


def test_a_state_has_the_skips_of_the_batches_that_were_taken(tmp_path, source):
    """However far ahead rows were read, and whether or not the run was stopped in between."""
    iterator = iterate([source], max_skipped=3, epochs=2)
    for number in (0, 6, 12):
        (tmp_path / f"records.json{number}.png").unlink()
    states, counts = [], []
    for batch in iterator:
        states.append(iterator.get_state())
        counts.append(sum(batch.skipped.values()))
    assert counts[-1] == 3
    assert [len(state["skips"]) for state in states] == counts
    assert sorted(counts) == counts


def test_a_failing_processor_of_the_user_makes_bad_records(source, monkeypatch):
    def fail(self, record, root=None, **options):
        raise TypeError("not\nthis")

    monkeypatch.setattr("ola_jax.data.processor.Processor.sample", fail)
    with pytest.raises(OlaError, match=r"all 20 records are bad.*record 'r\d+': TypeError: not$"):
        next(iterate([source]))
