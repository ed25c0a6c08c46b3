"""The rows of a run: every record once in an epoch, shares of weighted sources, the same on any machine."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ola_jax.data import plan as plan_module
from ola_jax.data.plan import RowPlan, random_order
from ola_jax.data.rows import misfit
from ola_jax.row import Budget
from tests.data.test_packing import BUDGETS, MIX, SIZES, index_of, realistic


def all_records(index):
    return np.arange(len(index))


def rows_of(plan):
    return [plan.row(number) for number in range(plan.count_rows())]


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(plan_module, "SEGMENT", 40)


def test_a_random_order_is_pinned():
    assert random_order(8, seed=3, kind=0, number=1, source=2).tolist() == [5, 3, 0, 7, 2, 6, 4, 1]
    orders = [
        tuple(random_order(50, seed=seed, kind=kind, number=number, source=source).tolist())
        for seed, kind, number, source in itertools.product((0, 1), repeat=4)
    ]
    assert len({*orders}) == 16
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert random_order(0, seed=0, kind=0, number=0).tolist() == []


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_an_epoch_has_every_record_once_before_the_next_begins(short_segments, epochs):
    indices = [realistic(70, seed=1), realistic(35, seed=2)]
    usable = [all_records(index) for index in indices]
    rows = rows_of(RowPlan(indices, usable, MIX, seed=0, epochs=epochs))
    endless = RowPlan(indices, usable, MIX, seed=0)
    assert rows == [endless.row(number) for number in range(len(rows))]
    keys = [key for row in rows for key in row]
    every = [(source, record) for source, index in enumerate(indices) for record in range(len(index))]
    parts = [keys[start : start + 105] for start in range(0, len(keys), 105)]
    assert len(parts) == epochs
    assert all(sorted(part) == every for part in parts)
    assert len({tuple(part) for part in parts}) == epochs
    for row in rows:
        assert misfit([indices[source].size(record) for source, record in row], MIX) is None


def test_only_usable_records_are_in_a_plan():
    index = realistic(50)
    plan = RowPlan([index], [np.array([3, 7, 31])], MIX, seed=0, epochs=4)
    assert sorted(key for row in rows_of(plan) for key in row) == sorted([(0, 3), (0, 7), (0, 31)] * 4)


@pytest.mark.parametrize("weights", [[3.0, 1.0], [0.1, 0.2], [1e-3, 1.0]])
def test_weighted_sources_lose_and_repeat_no_record_within_a_pass(short_segments, weights):
    indices = [realistic(30, seed=1), realistic(25, seed=2)]
    plan = RowPlan(indices, [all_records(i) for i in indices], MIX, seed=0, weights=weights)
    drawn = [key for number in range(200) for key in plan.row(number)]
    share = np.mean([source == 0 for source, _ in drawn])
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.02)
    for source, index in enumerate(indices):
        counts = collections.Counter(record for s, record in drawn if s == source)
        # A block mixes the end of one pass with the begin of the next, so that counts differ by 2 at most.
        values = [counts[record] for record in range(len(index))]
        assert max(values) - min(values) <= 2


@pytest.mark.parametrize("epochs", [1, 3])
def test_weighted_sources_end_with_the_first_that_is_used_up(short_segments, epochs):
    indices = [realistic(90, seed=1), realistic(10, seed=2)]
    plan = RowPlan(indices, [all_records(i) for i in indices], MIX, seed=0, weights=[1.0, 1.0], epochs=epochs)
    drawn = collections.Counter(key for row in rows_of(plan) for key in row)
    assert {drawn[1, record] for record in range(10)} == {epochs}
    assert sum(count for (source, _), count in drawn.items() if source == 0) == 10 * epochs
    assert max(drawn.values()) <= max(epochs, 1)


@pytest.mark.parametrize("weights", [None, [2.0, 1.0]])
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES.filter(bool), budget=st.sampled_from(BUDGETS), seed=st.integers(0, 2**32 - 1))
def test_any_row_can_be_found_at_once(weights, sizes, budget, seed):
    index = index_of(sizes)
    usable = np.array([i for i in range(len(index)) if misfit([index.size(i)], budget) is None], np.int64)
    if not len(usable):
        return
    options = {"seed": seed, "weights": weights, "epochs": 2}
    indices, both = [index, index], [usable, usable]
    rows = rows_of(RowPlan(indices, both, budget, **options))
    other = RowPlan(indices, both, budget, **options)
    for number in np.random.default_rng(seed).permutation(len(rows))[:10].tolist():
        assert other.row(number) == rows[number]
    with pytest.raises(IndexError):
        other.row(len(rows))
    for row in rows:
        assert misfit([index.size(record) for _, record in row], budget) is None


def test_another_seed_or_budget_makes_another_plan():
    index = realistic(200)
    plan = lambda seed, budget: rows_of(RowPlan([index], [all_records(index)], budget, seed=seed, epochs=1))
    assert plan(0, MIX) == plan(0, MIX)
    assert plan(0, MIX) != plan(1, MIX)
    assert plan(0, MIX) != plan(0, dataclasses.replace(MIX, tokens=1024))


def test_rows_do_not_drift_from_long_to_short_within_an_epoch(monkeypatch):
    monkeypatch.setattr(plan_module, "SEGMENT", 1000)
    index = realistic(30_000)
    rows = rows_of(RowPlan([index], [all_records(index)], MIX, seed=0, epochs=1))
    tokens = index.tokens.tolist()
    for measured in (
        np.array([np.mean([tokens[record] for _, record in row]) for row in rows]),
        np.array([sum(tokens[record] for _, record in row) for row in rows]),
    ):
        tenths = [part.mean() for part in np.array_split(measured, 10)]
        error = measured.std() / np.sqrt(len(measured) / 10)
        assert np.abs(np.array(tenths) - measured.mean()).max() < 4 * error


def test_memory_does_not_grow_with_the_rows_that_were_read(short_segments):
    index = realistic(200)
    plan = RowPlan([index], [all_records(index)], Budget(**dataclasses.asdict(MIX)), seed=0)
    for number in range(300):
        plan.row(number)
    assert len(plan._planned) <= 4
