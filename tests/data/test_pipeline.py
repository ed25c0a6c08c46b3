import dataclasses
import itertools
import json
import logging
import pathlib
import threading
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from ola_jax.batch import Budget
from ola_jax.config import MediaLimits
from ola_jax.data import Source, make_train_iterator
from ola_jax.errors import OlaError
from tests.data import decoders
from tests.data.made_up import TINY, tiny_processor, write_records

BUDGET = Budget(tokens=160, windows=2, window_patches=80)


def same(a, b):
    arrays = [(getattr(a.batch, f), getattr(b.batch, f)) for f in a.batch.__dataclass_fields__]
    rest = lambda x: (x.records, x.fill, x.skipped)
    return all((x == y).all() for x, y in arrays) and rest(a) == rest(b)


def make(sources, seed=0, isolate=False, **options):  # starting processes takes time
    options["isolate"] = isolate
    return make_train_iterator(sources, tiny_processor(), BUDGET, 2, seed, **options)


def segment_texts(batch):
    """The token ids of every sample of a batch."""
    texts = []
    for tokens, segments in zip(batch.batch.tokens, batch.batch.segments, strict=True):
        for number in range(1, segments.max() + 1):
            texts.append(tuple(tokens[segments == number].tolist()))
    return texts


@pytest.fixture
def source(tmp_path):
    return Source(write_records(tmp_path, 20), str(tmp_path))


def test_an_epoch_holds_every_sample_once(source):
    processor = tiny_processor()
    expected = sorted(
        tuple(processor.sample(record, source.root).tokens.tolist())
        for record in json.loads(pathlib.Path(source.records).read_text())
    )
    for threads in (0, 3):
        batches = list(make([source], epochs=1, num_threads=threads))
        assert sorted(text for batch in batches for text in segment_texts(batch)) == expected
        assert all(batch.batch.tokens.shape == (2, BUDGET.tokens) for batch in batches)
        assert max(batch.batch.segments.max() for batch in batches) > 1  # rows are shared


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_restored_iterator_gives_the_very_same_batches(source, tmp_path, prefetch):
    source = dataclasses.replace(source, weight=20.0)
    other = Source(write_records(tmp_path, 9, "other.json", bad=(4,)), str(tmp_path), weight=5.0)
    options = {"max_skipped": 1, "prefetch": prefetch, "open_rows": 3}
    whole = make([source, other], **options)
    batches, states = [], [whole.get_state()]
    for _ in range(14):
        batches.append(next(whole))
        states.append(json.loads(json.dumps(whole.get_state())))
    for start in (0, 3, 8):
        resumed = make([source, other], **options)
        resumed.set_state(states[start])
        assert resumed.get_state() == states[start]
        for number in range(start, 14):
            assert same(next(resumed), batches[number]), f"batch {number} after resuming at {start}"
            assert resumed.get_state() == states[number + 1]
        resumed.close()
    rewound = whole
    rewound.set_state(states[3])
    assert same(next(rewound), batches[3])
    whole.close()


def test_samples_that_wait_for_room_are_part_of_the_state(tmp_path):
    """Long samples wait while short ones still fit; a state in between must keep them."""
    records = [
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "x " * (1 + 27 * (i % 2))},
            ]
        }
        for i in range(40)
    ]
    (tmp_path / "r.json").write_text(json.dumps(records))
    source = Source(str(tmp_path / "r.json"))
    whole = make([source], epochs=1, prefetch=0, open_rows=2)
    states, batches = [], []
    while True:
        states.append(whole.get_state())
        try:
            batches.append(next(whole))
        except StopIteration:
            break
    assert any(state["iterator"]["waiting"] for state in states)
    assert sum(len(segment_texts(batch)) for batch in batches) == 40
    for start, state in enumerate(states):
        resumed = make([source], epochs=1, prefetch=0, open_rows=2)
        resumed.set_state(state)
        rest = list(resumed)
        assert len(rest) == len(batches) - start
        assert all(same(a, b) for a, b in zip(rest, batches[start:], strict=True))


def test_epochs_and_seeds_shuffle_differently(source):
    def order(batches):
        return [text for batch in batches for text in segment_texts(batch)]

    twice = order(make([source], epochs=2))
    assert sorted(twice) == sorted(order(make([source], epochs=1)) * 2)
    assert order(make([source], epochs=1)) == order(make([source], epochs=1))
    assert order(make([source], epochs=1)) != order(make([source], seed=1, epochs=1))


def test_processes_share_the_samples(source):
    parts = [
        [
            t
            for batch in make([source], epochs=1, process_index=i, process_count=3)
            for t in segment_texts(batch)
        ]
        for i in range(3)
    ]
    whole = [t for batch in make([source], epochs=1) for t in segment_texts(batch)]
    assert sorted(itertools.chain(*parts)) == sorted(whole)
    assert all(6 <= len(part) <= 7 for part in parts)


def test_weights_mix_the_sources(tmp_path):
    sources = [
        Source(write_records(tmp_path, 5, "a.json"), str(tmp_path), weight=3.0),
        Source(write_records(tmp_path, 5, "b.json"), str(tmp_path), weight=1.0),
    ]
    processor = tiny_processor()
    first = {
        tuple(processor.sample(record, str(tmp_path)).tokens.tolist())
        for record in json.loads((tmp_path / "a.json").read_text())
    }
    iterator = make(sources)
    texts = [text for _ in range(16) for text in segment_texts(next(iterator))]
    iterator.close()
    assert np.mean([text in first for text in texts]) == pytest.approx(0.75, abs=0.05)


def test_sources_without_weights_are_used_up_together(tmp_path):
    sources = [Source(write_records(tmp_path, n, f"{n}.json"), str(tmp_path)) for n in (5, 9, 7)]
    apart = [
        text for source in sources for batch in make([source], epochs=2) for text in segment_texts(batch)
    ]
    together = [text for batch in make(sources, epochs=2) for text in segment_texts(batch)]
    assert sorted(together) == sorted(apart)


def test_bad_samples_are_logged_counted_once_and_skipped(tmp_path, caplog):
    source = Source(write_records(tmp_path, 12, bad=(3, 7)), str(tmp_path))
    with caplog.at_level(logging.WARNING, "ola_jax.data.skips"):
        iterator = make([source], epochs=3, max_skipped=2)
        batches = list(iterator)
    assert sum(len(segment_texts(batch)) for batch in batches) == 3 * 10
    assert sorted(skip.index for skip in iterator.skips) == [3, 7]
    assert batches[-1].skipped == {"missing file": 2}
    assert len(caplog.messages) == 2
    assert any(
        "record 'r7'" in message and "missing.png: no such file" in message for message in caplog.messages
    )


def test_more_bad_samples_than_allowed_are_an_error(tmp_path):
    source = Source(write_records(tmp_path, 12, bad=(3, 7)), str(tmp_path))
    with pytest.raises(OlaError, match=r"2 bad samples, at most 1 may be skipped.*missing\.png"):
        list(make([source], epochs=1, max_skipped=1))


def test_data_in_which_every_record_is_bad_is_an_error(tmp_path):
    source = Source(write_records(tmp_path, 3, bad=(0, 1, 2)), str(tmp_path))
    with pytest.raises(OlaError, match="all 3 records are bad samples"):
        next(make([source], max_skipped=10))


def test_a_sample_that_fits_no_row_is_a_bad_sample(tmp_path):
    record = {
        "id": "long",
        "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y" * 200}],
    }
    (tmp_path / "r.json").write_text(json.dumps([record]))
    with pytest.raises(OlaError, match=r"record 'long'.* tokens, a row holds 160"):
        next(make([Source(str(tmp_path / "r.json"))]))


def test_cached_samples_are_made_once(source, monkeypatch):
    plain = list(make([source], epochs=2))
    calls = []
    processor = tiny_processor()
    original = type(processor).sample

    def counted(self, record, root=None, **options):
        calls.append(record["id"])
        return original(self, record, root, **options)

    monkeypatch.setattr(type(processor), "sample", counted)
    iterator = make_train_iterator([source], processor, BUDGET, 2, 0, epochs=2, cache=True, num_threads=0)
    assert all(same(a, b) for a, b in zip(iterator, plain, strict=True))
    assert sorted(calls) == sorted(f"r{i}" for i in range(20))


def test_a_state_is_taken_whatever_the_threads_and_batches_in_advance(source):
    loaders = [{"num_threads": 0, "prefetch": 0}, {"num_threads": 3, "prefetch": 2}]
    for saving, taking in itertools.permutations(loaders):
        whole = make([source], open_rows=2, **saving)
        next(whole)
        resumed = make([source], open_rows=2, **taking)
        resumed.set_state(json.loads(json.dumps(whole.get_state())))
        assert all(same(next(whole), next(resumed)) for _ in range(2))
        whole.close()
        resumed.close()


@pytest.mark.parametrize("state", [{}, {"identity": 3, "iterator": {}}, {"identity": {}}])
def test_a_state_that_is_none_is_refused(source, state):
    with pytest.raises(OlaError, match="data state: expected 'identity' and 'iterator'"):
        make([source]).set_state(state)


def test_a_state_of_other_settings_is_refused(source):
    state = make([source]).get_state()
    with pytest.raises(OlaError, match=r"saved with sources = .*, now .*'marks_are_text'"):
        make([dataclasses.replace(source, marks_are_text=True)]).set_state(state)
    with pytest.raises(OlaError, match=r"saved with seed = 0, now 1"):
        make([source], seed=1).set_state(state)


def test_sources_that_cannot_be_read_are_errors(tmp_path, source):
    with pytest.raises(OlaError, match=r"none\.json: cannot be read"):
        make([Source(str(tmp_path / "none.json"))])
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(OlaError, match=r"broken\.json: not valid JSON"):
        make([Source(str(tmp_path / "broken.json"))])
    (tmp_path / "object.json").write_text("{}")
    with pytest.raises(OlaError, match=r"object\.json: expected a JSON array"):
        make([Source(str(tmp_path / "object.json"))])
    with pytest.raises(OlaError, match=r"20 records for 21 processes"):
        make([source], process_count=21)
    with pytest.raises(OlaError, match=r"weight 0\.0; expected more than 0"):
        make([Source(source.records, source.root, weight=0.0)])
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(OlaError, match=r"empty\.json: no records in it"):
        make([Source(str(tmp_path / "empty.json"))])
    with pytest.raises(OlaError, match="sources: none given"):
        make([])


def test_batches_belong_to_the_model(source):
    batch = next(make([source])).batch
    assert batch.audio.shape == (2, 0, TINY.chunk_samples)
    assert batch.patches.shape == (2, 2, 80, 12)


def test_a_batch_knows_its_records_row_by_row(source):
    processor = tiny_processor()
    records = json.loads(pathlib.Path(source.records).read_text())
    batches = list(make([source], epochs=1))
    for batch in batches:
        expected = []
        for row in batch.records:
            assert all(records[record.index]["id"] == record.id for record in row)
            expected += [
                tuple(processor.sample(records[record.index], source.root).tokens.tolist()) for record in row
            ]
        assert segment_texts(batch) == expected
    found = [record for batch in batches for row in batch.records for record in row]
    assert sorted(record.index for record in found) == list(range(20))
    assert {record.source for record in found} == {source.records}


def test_a_batch_knows_how_full_it_is(source):
    for packed in make([source], epochs=1):
        batch = packed.batch
        assert set(packed.fill) == {"tokens", "windows", "patches"}  # the budget has no audio chunks
        assert packed.fill["tokens"] == (batch.segments > 0).mean()
        assert packed.fill["patches"] == (batch.patch_image > 0).mean()
        assert packed.fill["windows"] == (batch.patch_image > 0).any(-1).mean()


def test_skipped_records_are_counted_by_kind(tmp_path):
    write_records(tmp_path, 7, bad=(0,))
    records = json.loads((tmp_path / "records.json").read_text())
    (tmp_path / "records.json3.png").write_bytes(b"no image")
    records[1]["conversations"] = []
    records[2]["conversations"][1]["value"] = "y" * 200
    (tmp_path / "records.json").write_text(json.dumps(records))
    source = Source(str(tmp_path / "records.json"), str(tmp_path))
    batches = list(make([source], epochs=1, max_skipped=4))
    kinds = ("missing file", "unreadable media", "malformed record", "too large")
    assert batches[-1].skipped == dict.fromkeys(kinds, 1)


def chat(*messages, **keys):
    who = ("human", "gpt")
    return {"conversations": [{"from": who[i % 2], "value": m} for i, m in enumerate(messages)], **keys}


def written(folder, name, records):
    text = "\n".join(map(json.dumps, records)) if name.endswith("l") else json.dumps(records)
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_last_question_without_an_answer_is_learned_around(tmp_path):
    source = Source(written(tmp_path, "r.json", [chat("a", "the answer", "b")]))
    batch = next(make([source])).batch
    answer = tiny_processor().tokenizer.encode("the answer", add_special_tokens=False).ids
    learned = batch.targets[0][batch.segments[0] == 1].tolist()
    assert any(learned[i : i + len(answer)] == answer for i in range(len(learned)))


def test_samples_without_a_token_of_an_answer_are_skipped_by_kind(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "i.png")
    records = [
        chat("good", "answer"),
        chat("a question alone"),
        chat("no words", ""),
        chat("<image>\n" + "<image>\n" * 9, "hidden behind images", image=["i.png"] * 10),
    ]
    source = Source(written(tmp_path, "r.json", records), str(tmp_path))
    processor = tiny_processor(max_length=90)
    iterator = make_train_iterator([source], processor, BUDGET, 2, 0, max_skipped=3, epochs=1)
    (batch,) = list(iterator)
    assert [record.index for row in batch.records for record in row] == [0]
    assert {skip.index: skip.kind for skip in iterator.skips} == {
        1: "nothing to learn",
        2: "nothing to learn",
        3: "too large",
    }
    with pytest.raises(OlaError, match=r"max_length is 90: no token|no answer of 'gpt'"):
        list(make_train_iterator([source], processor, BUDGET, 2, 0, epochs=1))


def test_marks_are_text_only_in_sources_that_say_so(tmp_path):
    path = written(tmp_path, "r.json", [chat("What is <image>?", "a <video> mark")])
    with pytest.raises(OlaError, match="'<image>' in the text and no image or video"):
        next(make([Source(path)]))
    batch = next(make([Source(path, marks_are_text=True)])).batch
    text = tiny_processor().tokenizer.decode(batch.tokens[0][batch.segments[0] == 1].tolist())
    assert "What is <image>?" in text


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_elements_that_are_no_records_are_skipped_one_by_one(tmp_path, name):
    records = [chat("a", "b", id="first"), 7, ["x"], None, chat("c", "d", id="last")]
    source = Source(written(tmp_path, name, records))
    iterator = make([source], epochs=1, max_skipped=3)
    (batch,) = list(iterator)
    assert sorted(r.id for row in batch.records for r in row) == ["first", "last"]
    assert batch.skipped == {"malformed record": 3}
    assert all("expected a JSON object, found" in skip.reason for skip in iterator.skips)
    with pytest.raises(OlaError, match=r"3 bad samples, at most 2 may be skipped"):
        list(make([source], epochs=1, max_skipped=2))


def test_a_line_that_is_not_json_is_skipped_with_its_number(tmp_path):
    lines = [json.dumps(chat("a", "b")), '{"conversations": [', "[" * 100_000, json.dumps(chat("c", "d"))]
    (tmp_path / "r.jsonl").write_bytes("\r\n".join(lines).encode() + b'\n{"id": "\xff"}\n')
    iterator = make([Source(str(tmp_path / "r.jsonl"))], epochs=1, max_skipped=3)
    assert len(list(iterator)) == 1
    reasons = {skip.index: skip.reason for skip in iterator.skips}
    assert [reasons[i].split(": ")[0] for i in (1, 2, 4)] == ["line 2", "line 3", "line 5"]


@pytest.mark.parametrize("weights", [(None, None), (1.0, 2.0)])
@pytest.mark.parametrize("threads", [0, 2])
def test_the_same_bad_file_in_two_sources_is_an_error(tmp_path, weights, threads):
    path = write_records(tmp_path, 3, bad=(0, 1, 2))
    sources = [Source(path, str(tmp_path), weight) for weight in weights]
    with pytest.raises(OlaError, match=r"records\.json: all 3 records are bad samples"):
        next(make(sources, max_skipped=100, num_threads=threads))


@pytest.mark.parametrize("weights", [(None, None), (9.0, 1.0)])
def test_a_source_of_bad_records_beside_a_good_one_is_an_error(tmp_path, weights):
    good = Source(write_records(tmp_path, 5, "good.json"), str(tmp_path), weights[0])
    bad = Source(write_records(tmp_path, 4, "bad.json", bad=range(4)), str(tmp_path), weights[1])
    iterator = make([good, bad], max_skipped=100)
    with pytest.raises(OlaError, match=r"bad\.json: all 4 records are bad samples"):
        list(itertools.islice(iterator, 100))
    iterator.close()


def test_a_source_of_samples_too_large_is_an_error(tmp_path):
    path = written(tmp_path, "r.json", [chat("x", "y" * 200), chat("y", "z" * 200)])
    with pytest.raises(OlaError, match=r"all 2 records are bad samples.* tokens, a row holds 160"):
        next(make([Source(path)], max_skipped=100))


@pytest.mark.parametrize("count", [1, 3])
def test_a_process_whose_share_of_an_epoch_is_bad_goes_on_or_ends(tmp_path, count):
    one_good = Source(write_records(tmp_path, 6, bad=(0, 1, 2, 3, 4)), str(tmp_path))
    for index in range(count):
        options = {"process_index": index, "process_count": count, "prefetch": 0, "open_rows": 2}
        iterator = make([one_good], max_skipped=5, **options)
        assert {record.id for row in next(iterator).records for record in row} == {"r5"}
    none_good = Source(write_records(tmp_path, 6, bad=range(6)), str(tmp_path))
    for index in range(count):
        with pytest.raises(OlaError, match="all 6 records are bad samples"):
            next(make([none_good], max_skipped=6, process_index=index, process_count=count))


def test_a_source_with_few_usable_records_gives_them_without_end(tmp_path):
    source = Source(write_records(tmp_path, 4, bad=(0, 1, 2)), str(tmp_path))
    options = {"max_skipped": 3, "prefetch": 0, "open_rows": 2}
    iterator = make([source], **options)
    whole = [next(iterator) for _ in range(2)]
    state = json.loads(json.dumps(iterator.get_state()))
    following = [next(iterator) for _ in range(2)]
    assert all(r.id == "r3" for batch in whole + following for row in batch.records for r in row)
    resumed = make([source], **options)
    resumed.set_state(state)
    assert all(same(next(resumed), batch) for batch in following)
    assert sorted(skip.index for skip in resumed.skips) == [0, 1, 2]


def test_skips_of_the_same_file_in_two_sources_are_kept_apart_through_a_state(tmp_path):
    path = write_records(tmp_path, 8, bad=(1, 2))
    sources = [Source(path, str(tmp_path), 1.0), Source(path, str(tmp_path), 1.0)]
    iterator = make(sources, max_skipped=4, prefetch=0)
    for _ in range(4):
        next(iterator)
    places = {(skip.number, skip.index) for skip in iterator.skips}
    assert places == {(number, index) for number in (0, 1) for index in (1, 2)}
    resumed = make(sources, max_skipped=4, prefetch=0)
    resumed.set_state(json.loads(json.dumps(iterator.get_state())))
    assert {(skip.number, skip.index) for skip in resumed.skips} == places
    assert same(next(resumed), next(iterator))


def test_a_state_of_before_skips_had_a_number_is_taken(tmp_path):
    source = Source(write_records(tmp_path, 6, bad=(1,)), str(tmp_path))
    iterator = make([source], max_skipped=1, prefetch=0)
    next(iterator)
    state = json.dumps(iterator.get_state())
    assert ', "number": 0' in state
    state = json.loads(state.replace(', "number": 0', ""))
    resumed = make([source], max_skipped=1, prefetch=0)
    resumed.set_state(state)
    assert [skip.index for skip in resumed.skips] == [1]


def test_weights_are_given_to_all_sources_or_to_none(tmp_path):
    paths = [write_records(tmp_path, 3, name) for name in ("a.json", "b.json")]
    for weights in ((0.5, None), (None, 0.5)):
        sources = [Source(path, str(tmp_path), weight) for path, weight in zip(paths, weights, strict=True)]
        with pytest.raises(OlaError, match=r"[ab]\.json has a weight \(0\.5\) and .*[ab]\.json has none"):
            make(sources)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_positive_numbers(source, weight):
    with pytest.raises(OlaError, match=r"weight .*; expected more than 0"):
        make([dataclasses.replace(source, weight=weight)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"seed": 2**32}, r"seed is 4294967296; expected 0 to 2\*\*32 - 1"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"open_rows": 0}, "open_rows is 0"),
        ({"max_skipped": -1}, "max_skipped is -1"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"prefetch": -2}, "prefetch is -2"),
        ({"process_count": 0}, "process_count is 0"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2 of 2 processes; expected 0 to 1"),
        ({"process_index": -1}, "process_index is -1"),
    ],
)
def test_options_that_cannot_work_are_errors(source, options, message):
    with pytest.raises(OlaError, match=message):
        make([source], **options)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(0), "budget: tokens is 0; expected a whole number, 1 or more"),
        (Budget(64, -1), "budget: windows is -1"),
        (Budget(64, 1, 6), "budget: 1 windows of 6 patches; expected a multiple of 4"),
        (Budget(64, 1, 0), "budget: 1 windows of 0 patches"),
        (Budget(64, audio_chunks=-3), "budget: audio_chunks is -3"),
    ],
)
def test_budgets_that_cannot_work_are_errors(source, budget, message):
    with pytest.raises(OlaError, match=message):
        make_train_iterator([source], tiny_processor(), budget, 2, 0)
    with pytest.raises(OlaError, match="batch_rows is 0"):
        make_train_iterator([source], tiny_processor(), BUDGET, 0, 0)


def test_a_processor_of_ones_own_that_fails_makes_skips(source, monkeypatch):
    def fail(self, record, root=None, **options):
        raise TypeError("not\nthis")

    monkeypatch.setattr("ola_jax.data.processor.Processor.sample", fail)
    with pytest.raises(OlaError, match=r"1 bad samples.*record 'r\d+': TypeError: not$"):
        next(make([source]))


def test_media_are_decoded_in_processes_to_the_same_batches(source):
    iterator = make([source], isolate=True, epochs=2)
    assert all(same(a, b) for a, b in zip(iterator, make([source], epochs=2), strict=True))
    iterator.close()
    with pytest.raises(OlaError, match="decoding was closed"):
        iterator._decoder(decoders.give, 1)


@pytest.mark.parametrize(
    ("function", "kind"), [(decoders.hang, "timed out"), (decoders.leave, "decoder crashed")]
)
def test_media_that_hang_or_crash_their_decoder_are_skipped(tmp_path, monkeypatch, function, kind):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    processor = tiny_processor(media=MediaLimits(decode_seconds=2.0))
    original = type(processor)._images

    def bad(self, record, root):
        if record.id == "r3":
            return self.decode(function, record.images)
        return original(self, record, root)

    monkeypatch.setattr(type(processor), "_images", bad)
    iterator = make_train_iterator([source], processor, BUDGET, 2, 0, epochs=1, max_skipped=1)
    batches = list(iterator)
    iterator.close()
    assert sum(len(segment_texts(batch)) for batch in batches) == 11
    assert batches[-1].skipped == {kind: 1}
    assert [(skip.index, skip.kind) for skip in iterator.skips] == [(3, kind)]
    assert "record 'r3'" in iterator.skips[0].reason


def test_text_alone_starts_no_process_for_decoding(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "r.json").write_text(json.dumps([{"conversations": turns}] * 4))
    iterator = make([Source(str(tmp_path / "r.json"))], isolate=True, epochs=1)
    before = set(psutil.Process().children())
    assert len(list(iterator)) > 0
    assert set(psutil.Process().children()) <= before


def test_close_does_not_wait_for_media_that_hang(tmp_path, monkeypatch, caplog):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    processor = tiny_processor(media=MediaLimits(decode_seconds=60.0))
    armed, started = threading.Event(), threading.Event()
    original = type(processor)._images

    def images(self, record, root):
        if not armed.is_set() or not record.images:
            return original(self, record, root)
        started.set()
        return self.decode(decoders.hang, record.images)

    monkeypatch.setattr(type(processor), "_images", images)
    iterator = make_train_iterator([source], processor, BUDGET, 2, 0, max_skipped=12)
    next(iterator)
    armed.set()
    while not started.wait(2.0):  # enough is prepared in advance: make room for more
        next(iterator)
    began = time.monotonic()
    iterator.close()
    assert time.monotonic() - began < 20
    assert not iterator.skips
    assert not caplog.messages
