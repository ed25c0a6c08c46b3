"""The samples of the training input: their order and shares, and the facts of each batch."""

import dataclasses
import itertools
import json
import pathlib

import numpy as np
import pytest

from ola_jax.data import Source
from ola_jax.data.headers import HeaderDecode
from tests.data.batches import BUDGET, are_equal, iterate, record_ids, sample_tokens
from tests.data.made_up import TINY, conversation, tiny_processor, write_json, write_records


def tokens_of_file(path, root):
    """The token ids of each record of a file, as the processor makes them."""
    processor, records = tiny_processor(), json.loads(pathlib.Path(path).read_text())
    return [tuple(processor.sample(record, str(root)).tokens.tolist()) for record in records]


def test_an_epoch_has_every_sample_once(source):
    expected = sorted(tokens_of_file(source.records, source.root))
    for workers in (0, 3):
        batches = list(iterate([source], epochs=1, workers=workers))
        assert sorted(sample_tokens(batches)) == expected
        assert all(batch.batch.tokens.shape == (2, BUDGET.tokens) for batch in batches)
        assert all(batch.batch.patches.shape == (2, 2, 80, 12) for batch in batches)
        assert all(batch.batch.audio.shape == (2, 0, TINY.chunk_samples) for batch in batches)
        assert max(batch.batch.segments.max() for batch in batches) > 1  # rows are shared


def test_epochs_and_seeds_shuffle_differently(source):
    order = lambda **options: sample_tokens(iterate([source], **options))
    first = order(epochs=1)
    assert sorted(order(epochs=2)) == sorted(first * 2)
    assert order(epochs=1) == first
    assert order(seed=1, epochs=1) != first


@pytest.mark.parametrize("weight", [None, 2.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_any_number_of_processes_are_those_of_one(source, weight, workers):
    sources = [dataclasses.replace(source, weight=weight)] * 2
    options = {"epochs": 2, "batch_rows": 6}
    expected = list(iterate(sources, **options))
    assert len(expected) > 2
    for count in (2, 3):
        parts = [
            list(
                iterate(
                    sources, epochs=2, batch_rows=6, process_index=i, process_count=count, workers=workers
                )
            )
            for i in range(count)
        ]
        for step, batch in enumerate(expected):
            for name in batch.batch.__dataclass_fields__:
                rows = [getattr(part[step].batch, name) for part in parts]
                assert all(len(each) == 6 // count for each in rows)
                assert np.concatenate(rows).tobytes() == getattr(batch.batch, name).tobytes()
            assert sum((part[step].record_ids for part in parts), ()) == batch.record_ids
        assert {len(part) for part in parts} == {len(expected)}


def test_weights_mix_the_sources(tmp_path):
    sources = [
        Source(write_records(tmp_path, 5, "a.json"), str(tmp_path), weight=3.0),
        Source(write_records(tmp_path, 5, "b.json"), str(tmp_path), weight=1.0),
    ]
    first = set(tokens_of_file(tmp_path / "a.json", tmp_path))
    iterator = iterate(sources)
    found = sample_tokens(itertools.islice(iterator, 16))
    iterator.close()
    assert np.mean([tokens in first for tokens in found]) == pytest.approx(0.75, abs=0.05)


def test_sources_without_weights_are_used_up_together(tmp_path):
    sources = [Source(write_records(tmp_path, n, f"{n}.json"), str(tmp_path)) for n in (5, 9, 7)]
    apart = [tokens for source in sources for tokens in sample_tokens(iterate([source], epochs=2))]
    assert sorted(sample_tokens(iterate(sources, epochs=2))) == sorted(apart)


def test_cached_samples_are_made_once(source, monkeypatch):
    plain = list(iterate([source], epochs=2))
    processor, ids = tiny_processor(), []
    original = type(processor).sample

    def noted(self, record, root=None, **options):
        if not isinstance(self.decode, HeaderDecode):  # by which sizes are measured
            ids.append(record["id"])
        return original(self, record, root, **options)

    monkeypatch.setattr(type(processor), "sample", noted)
    iterator = iterate([source], processor=processor, epochs=2, cache=True)
    assert all(are_equal(a, b) for a, b in zip(iterator, plain, strict=True))
    assert sorted(ids) == sorted(f"r{i}" for i in range(20))


def test_a_batch_has_the_ids_of_its_records_row_by_row(source):
    records = json.loads(pathlib.Path(source.records).read_text())
    expected = tokens_of_file(source.records, source.root)
    batches = list(iterate([source], epochs=1))
    for batch in batches:
        found = record_ids([batch])
        assert all(records[record.index]["id"] == record.id for record in found)
        assert sample_tokens([batch]) == [expected[record.index] for record in found]
    assert sorted(record.index for record in record_ids(batches)) == list(range(20))
    assert {record.source for record in record_ids(batches)} == {source.records}


def test_a_batch_has_its_utilization(source):
    for found in iterate([source], epochs=1):
        batch = found.batch
        assert set(found.utilization) == {"tokens", "windows", "patches"}  # the budget has no audio chunks
        assert found.utilization["tokens"] == (batch.segments > 0).mean()
        assert found.utilization["patches"] == (batch.patch_image > 0).mean()
        assert found.utilization["windows"] == (batch.patch_image > 0).any(-1).mean()


def test_answers_before_a_last_question_are_learned(tmp_path):
    source = Source(write_json(tmp_path, "r.json", [conversation("a", "the answer", "b")]))
    batch = next(iterate([source])).batch
    answer = tiny_processor().tokenizer.encode("the answer", add_special_tokens=False).ids
    learned = batch.targets[0][batch.segments[0] == 1].tolist()
    assert any(learned[i : i + len(answer)] == answer for i in range(len(learned)))
