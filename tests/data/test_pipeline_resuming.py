"""States of the training input: any number of processes resumes with the same batches, bit for bit."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from ola_jax.data import Source
from ola_jax.data.pipeline import unite_states
from ola_jax.errors import OlaError
from tests.data.batches import are_equal, iterate, record_ids
from tests.data.made_up import write_records


def saved(iterator):
    """The state as it is read from a file."""
    return json.loads(json.dumps(iterator.get_state()))


@pytest.fixture
def sources(source, tmp_path):
    """Two weighted sources, one with a bad record."""
    other = Source(write_records(tmp_path, 9, "other.json", bad=(4,)), str(tmp_path), weight=5.0)
    return [dataclasses.replace(source, weight=20.0), other]


@pytest.mark.parametrize(("prefetch", "workers"), [(0, 0), (2, 0), (2, 2)])
def test_a_resumed_iterator_yields_the_same_batches(sources, prefetch, workers):
    options = {"max_skipped": 1, "prefetch": prefetch, "workers": workers, "batch_rows": 3}
    complete = iterate(sources, **options)
    batches, states = [], [complete.get_state()]
    for _ in range(12):
        batches.append(next(complete))
        states.append(saved(complete))
    for start in (0, 3, 8):
        resumed = iterate(sources, **options)
        resumed.set_state(states[start])
        assert resumed.get_state() == states[start]
        for number in range(start, 12):
            assert are_equal(next(resumed), batches[number]), f"batch {number} after resuming at {start}"
            assert resumed.get_state() == states[number + 1]
        resumed.close()
    complete.set_state(states[3])  # rewound
    assert are_equal(next(complete), batches[3])
    complete.close()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("before", "after"), [*itertools.permutations((1, 2, 3), 2)])
def test_another_number_of_processes_resumes_with_the_same_batches(sources, weighted, before, after):
    if not weighted:
        sources = [dataclasses.replace(source, weight=None) for source in sources]

    def start(count):
        options = {"batch_rows": 6, "max_skipped": 1, "process_count": count}
        return [iterate(sources, **options, process_index=index) for index in range(count)]

    def step(processes):
        batches = [next(process).batch for process in processes]
        return [np.concatenate([getattr(b, name) for b in batches]).tobytes() for name in FIELDS]

    (alone,) = start(1)
    expected = [step([alone]) for _ in range(5)]
    first = start(before)
    assert [step(first) for _ in range(2)] == expected[:2]
    state = unite_states([saved(process) for process in first])
    second = start(after)
    for process in second:
        process.set_state(state)
    assert [step(second) for _ in range(3)] == expected[2:]
    for process in [alone, *first, *second]:
        process.close()


FIELDS = ("tokens", "positions", "segments", "targets", "source", "patches", "patch_image", "patch_position")


def test_the_skips_of_all_processes_are_united(tmp_path):
    source = Source(write_records(tmp_path, 20), str(tmp_path))
    options = {"max_skipped": 2, "batch_rows": 4, "index_folder": tmp_path / "data"}
    processes = [iterate([source], **options, process_index=i, process_count=2) for i in range(2)]
    for number in (0, 3):
        (tmp_path / f"records.json{number}.png").unlink()
    for process in processes:
        for _ in range(4):
            next(process)
    found = [{skip.index for skip in process.skips} for process in processes]
    assert found[0] | found[1] == {0, 3}
    state = unite_states([saved(process) for process in processes])
    assert sorted(skip["index"] for skip in state["skips"]) == [0, 3]
    resumed = iterate([source], **options)  # with the index that the run began with
    resumed.set_state(state)
    for _ in range(4):
        batch, parts = next(resumed), [next(process) for process in processes]
        assert batch.record_ids == sum((part.record_ids for part in parts), ())
        assert batch.skipped == {"missing file": 2}
    for process in [resumed, *processes]:
        process.close()


def test_a_state_of_records_whose_media_have_changed_is_refused(tmp_path):
    source = Source(write_records(tmp_path, 6), str(tmp_path))
    state = iterate([source]).get_state()
    (tmp_path / "records.json0.png").unlink()
    with pytest.raises(OlaError, match="data state: saved with sizes of records = "):
        iterate([source], max_skipped=1).set_state(state)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_kept_index_spares_a_run_that_is_resumed_from_measuring(tmp_path, cache, workers):
    source = Source(write_records(tmp_path, 6), str(tmp_path))
    options = {"index_folder": tmp_path / "data", "cache": cache, "workers": workers, "max_skipped": 1}
    first = iterate([source], **options)
    batch = next(first)
    for number in (0, 3):
        (tmp_path / f"records.json{number}.png").unlink()
    second = iterate([source], **options | {"max_skipped": 2})
    assert not second.skips
    found = next(second)
    assert {r.id for r in record_ids([batch])} - {r.id for r in record_ids([found])} <= {"r0", "r3"}
    (tmp_path / "records.json").write_text((tmp_path / "records.json").read_text() + " ")
    third = iterate([source], **options | {"max_skipped": 2})
    assert len(third.skips) == 2  # measured again, since the records have changed
    for iterator in (first, second, third):
        iterator.close()


def test_states_of_different_steps_are_not_united(source):
    iterator = iterate([source])
    before = saved(iterator)
    next(iterator)
    with pytest.raises(OlaError, match="not at the same step"):
        unite_states([before, saved(iterator)])
    iterator.close()


def test_workers_and_prefetching_do_not_belong_to_the_state(source):
    loaders = [{"workers": 0, "prefetch": 0}, {"workers": 1, "prefetch": 2, "read_ahead_bytes": 1}]
    for saving, resuming in itertools.permutations(loaders):
        complete = iterate([source], **saving)
        next(complete)
        resumed = iterate([source], **resuming)
        resumed.set_state(saved(complete))
        assert all(are_equal(next(complete), next(resumed)) for _ in range(2))
        complete.close()
        resumed.close()


@pytest.mark.parametrize(
    "state", [{}, {"identity": 3, "step": 0, "skips": []}, {"identity": {}}, {"identity": {}, "step": True}]
)
def test_a_value_that_is_not_a_state_is_refused(source, state):
    with pytest.raises(OlaError, match=r"data state: expected .* 'identity', 'step' and 'skips'"):
        iterate([source]).set_state(state)


def test_a_state_of_the_pipeline_before_plans_is_refused(source):
    with pytest.raises(OlaError, match="data state: saved by an earlier version of ola_jax"):
        iterate([source]).set_state({"identity": {}, "iterator": {"next_row": 3}})


def test_a_state_of_other_settings_is_refused(source):
    state = iterate([source]).get_state()
    with pytest.raises(OlaError, match=r"saved with sources = .*, now .*'marks_are_text'"):
        iterate([dataclasses.replace(source, marks_are_text=True)]).set_state(state)
    with pytest.raises(OlaError, match=r"saved with seed = 0, now 1"):
        iterate([source], seed=1).set_state(state)
    with pytest.raises(OlaError, match=r"saved with batch_rows = 2, now 4"):
        iterate([source], batch_rows=4).set_state(state)


def test_skips_of_the_same_file_in_two_sources_stay_apart(tmp_path):
    path = write_records(tmp_path, 8)
    sources = [Source(path, str(tmp_path), 1.0), Source(path, str(tmp_path), 1.0)]
    iterator = iterate(sources, max_skipped=4, prefetch=0)
    for number in (0, 3):
        (tmp_path / f"records.json{number}.png").unlink()
    for _ in range(12):
        next(iterator)
    places = {(skip.number, skip.index) for skip in iterator.skips}
    assert places == {(number, index) for number in (0, 1) for index in (0, 3)}
    assert len(saved(iterator)["skips"]) == 4


def test_records_that_are_bad_from_the_start_are_skipped_again_and_again(tmp_path):
    source = Source(write_records(tmp_path, 4, bad=(0, 1, 2)), str(tmp_path))
    iterator = iterate([source], max_skipped=3)
    batches = [next(iterator) for _ in range(4)]
    assert all(record.id == "r3" for record in record_ids(batches))
    assert saved(iterator)["skips"] == []  # they are in the index
    resumed = iterate([source], max_skipped=3)
    resumed.set_state(saved(iterator))
    assert are_equal(next(resumed), next(iterator))
    assert sorted(skip.index for skip in resumed.skips) == [0, 1, 2]
