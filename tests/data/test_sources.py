import dataclasses

import pytest

from ola_jax.batch import Budget
from ola_jax.data import Source, make_train_iterator
from ola_jax.errors import OlaError
from tests.data.batches import BUDGET, iterate
from tests.data.made_up import tiny_processor, write_records


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, r"none\.json: cannot be read"),
        ("broken.json", "[{", r"broken\.json: not valid JSON"),
        ("object.json", "{}", r"object\.json: expected a JSON array"),
        ("empty.json", "[]", r"empty\.json: the file has no records"),
    ],
)
def test_files_that_cannot_be_used_are_errors(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(OlaError, match=message):
        iterate([Source(str(tmp_path / name))])


def test_there_must_be_sources_and_rows_for_each_process(source):
    with pytest.raises(OlaError, match="sources is empty; expected at least one Source"):
        iterate([])
    with pytest.raises(OlaError, match="batch_rows is 2; expected a multiple of the 3 processes"):
        iterate([source], process_count=3)


def test_weights_are_given_to_all_sources_or_to_none(tmp_path):
    paths = [write_records(tmp_path, 3, name) for name in ("a.json", "b.json")]
    for weights in ((0.5, None), (None, 0.5)):
        sources = [Source(path, str(tmp_path), weight) for path, weight in zip(paths, weights, strict=True)]
        with pytest.raises(OlaError, match=r"[ab]\.json has a weight \(0\.5\) and .*[ab]\.json has none"):
            iterate(sources)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_positive_numbers(source, weight):
    with pytest.raises(OlaError, match=r"weight is .*; expected a number above 0"):
        iterate([dataclasses.replace(source, weight=weight)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"seed": 2**32}, r"seed is 4294967296; expected 0 to 2\*\*32 - 1"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"max_skipped": -1}, "max_skipped is -1"),
        ({"workers": -1}, "workers is -1"),
        ({"read_ahead_bytes": -1}, "read_ahead_bytes is -1"),
        ({"prefetch": -2}, "prefetch is -2"),
        ({"process_count": 0}, "process_count is 0"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2 of 2 processes; expected 0 to 1"),
        ({"process_index": -1}, "process_index is -1"),
    ],
)
def test_options_that_cannot_work_are_errors(source, options, message):
    with pytest.raises(OlaError, match=message):
        iterate([source], **options)


@pytest.mark.parametrize(
    ("budget", "rows", "message"),
    [
        (Budget(0), 2, "budget: tokens is 0; expected a whole number, 1 or more"),
        (Budget(64, -1), 2, "budget: windows is -1"),
        (Budget(64, 1, 6), 2, "budget: 1 windows of 6 patches; expected a multiple of 4"),
        (Budget(64, 1, 0), 2, "budget: 1 windows of 0 patches"),
        (Budget(64, audio_chunks=-3), 2, "budget: audio_chunks is -3"),
        (BUDGET, 0, "batch_rows is 0"),
    ],
)
def test_sizes_that_cannot_work_are_errors(source, budget, rows, message):
    with pytest.raises(OlaError, match=message):
        make_train_iterator([source], tiny_processor(), budget, batch_rows=rows, seed=0)
