"""States of the training input: resuming yields the same batches, bit for bit."""

import dataclasses
import itertools
import json

import pytest

from ola_jax.data import Source
from ola_jax.errors import OlaError
from tests.data.batches import are_equal, iterate, record_ids
from tests.data.made_up import conversation, write_json, write_records


def saved(iterator):
    """The state as it is read from a file."""
    return json.loads(json.dumps(iterator.get_state()))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_resumed_iterator_yields_the_same_batches(source, tmp_path, prefetch):
    source = dataclasses.replace(source, weight=20.0)
    other = Source(write_records(tmp_path, 9, "other.json", bad=(4,)), str(tmp_path), weight=5.0)
    options = {"max_skipped": 1, "prefetch": prefetch, "open_rows": 3}
    complete = iterate([source, other], **options)
    batches, states = [], [complete.get_state()]
    for _ in range(12):
        batches.append(next(complete))
        states.append(saved(complete))
    for start in (0, 3, 8):
        resumed = iterate([source, other], **options)
        resumed.set_state(states[start])
        assert resumed.get_state() == states[start]
        for number in range(start, 12):
            assert are_equal(next(resumed), batches[number]), f"batch {number} after resuming at {start}"
            assert resumed.get_state() == states[number + 1]
        resumed.close()
    complete.set_state(states[3])  # rewound
    assert are_equal(next(complete), batches[3])
    complete.close()


def test_samples_that_wait_for_room_are_part_of_the_state(tmp_path):
    """Long samples wait while short ones still fit; a state in between must keep them."""
    records = [conversation("a", "x " * (1 + 27 * (i % 2))) for i in range(40)]
    source = Source(write_json(tmp_path, "r.json", records))
    complete = iterate([source], epochs=1, prefetch=0, open_rows=2)
    states, batches = [complete.get_state()], []
    for batch in complete:
        batches.append(batch)
        states.append(complete.get_state())
    assert any(state["iterator"]["waiting"] for state in states)
    assert len(record_ids(batches)) == 40
    for start, state in enumerate(states):
        resumed = iterate([source], epochs=1, prefetch=0, open_rows=2)
        resumed.set_state(state)
        assert all(are_equal(a, b) for a, b in zip(resumed, batches[start:], strict=True))


def test_threads_and_prefetching_do_not_belong_to_the_state(source):
    loaders = [{"num_threads": 0, "prefetch": 0}, {"num_threads": 3, "prefetch": 2}]
    for saving, resuming in itertools.permutations(loaders):
        complete = iterate([source], open_rows=2, **saving)
        next(complete)
        resumed = iterate([source], open_rows=2, **resuming)
        resumed.set_state(saved(complete))
        assert all(are_equal(next(complete), next(resumed)) for _ in range(2))
        complete.close()
        resumed.close()


@pytest.mark.parametrize("state", [{}, {"identity": 3, "iterator": {}}, {"identity": {}}])
def test_a_value_that_is_not_a_state_is_refused(source, state):
    with pytest.raises(OlaError, match=r"data state: expected .* 'identity' and 'iterator'"):
        iterate([source]).set_state(state)


def test_a_state_of_other_settings_is_refused(source):
    state = iterate([source]).get_state()
    with pytest.raises(OlaError, match=r"saved with sources = .*, now .*'marks_are_text'"):
        iterate([dataclasses.replace(source, marks_are_text=True)]).set_state(state)
    with pytest.raises(OlaError, match=r"saved with seed = 0, now 1"):
        iterate([source], seed=1).set_state(state)


def test_skips_are_part_of_the_state(tmp_path):
    source = Source(write_records(tmp_path, 4, bad=(0, 1, 2)), str(tmp_path))
    options = {"max_skipped": 3, "prefetch": 0, "open_rows": 2}
    complete = iterate([source], **options)
    batches = [next(complete) for _ in range(2)]
    state = saved(complete)
    batches += [next(complete) for _ in range(2)]
    assert all(record.id == "r3" for record in record_ids(batches))  # again and again
    resumed = iterate([source], **options)
    resumed.set_state(state)
    assert all(are_equal(next(resumed), batch) for batch in batches[2:])
    assert sorted(skip.index for skip in resumed.skips) == [0, 1, 2]


def test_skips_of_the_same_file_in_two_sources_stay_apart(tmp_path):
    path = write_records(tmp_path, 8, bad=(1, 2))
    sources = [Source(path, str(tmp_path), 1.0), Source(path, str(tmp_path), 1.0)]
    iterator = iterate(sources, max_skipped=4, prefetch=0)
    for _ in range(4):
        next(iterator)
    places = {(skip.number, skip.index) for skip in iterator.skips}
    assert places == {(number, index) for number in (0, 1) for index in (1, 2)}
    resumed = iterate(sources, max_skipped=4, prefetch=0)
    resumed.set_state(saved(iterator))
    assert {(skip.number, skip.index) for skip in resumed.skips} == places
    assert are_equal(next(resumed), next(iterator))


def test_a_state_from_before_skips_had_a_source_number_is_accepted(tmp_path):
    source = Source(write_records(tmp_path, 6, bad=(1,)), str(tmp_path))
    iterator = iterate([source], max_skipped=1, prefetch=0)
    next(iterator)
    state = json.dumps(iterator.get_state())
    assert ', "number": 0' in state
    resumed = iterate([source], max_skipped=1, prefetch=0)
    resumed.set_state(json.loads(state.replace(', "number": 0', "")))
    assert [skip.index for skip in resumed.skips] == [1]
