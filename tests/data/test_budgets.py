"""Recommended budgets: they hold the records, and their figures are those of packing with them."""

import numpy as np
import pytest

from ola_jax.config import OlaConfig
from ola_jax.data.budgets import recommend_budgets, try_budget
from ola_jax.data.index import Failure, concatenate, make_index
from ola_jax.data.packing import pack
from ola_jax.data.windows import assign_windows
from ola_jax.errors import OlaError
from ola_jax.models import ola
from tests.data.test_packing import MIX, index_of, realistic

SIZES = {"devices": 4, "batch_tokens": 65_536, "row_tokens": (1024, 2048)}


def test_a_choice_has_the_figures_of_its_packing():
    index = realistic(500)
    choice = try_budget(index, MIX, OlaConfig.tiny(), devices=4, batch_tokens=65_536)
    rows = pack(index, MIX)
    images = [np.concatenate([index.images(int(i)) for i in rows.row(n)]).tolist() for n in range(len(rows))]
    windows = [assign_windows(row, MIX.window_patches)[1] for row in images]
    assert choice.utilization == pytest.approx(
        {
            "tokens": index.tokens.sum() / (len(rows) * MIX.tokens),
            "audio_chunks": index.chunks.sum() / (len(rows) * MIX.audio_chunks),
            "windows": sum(windows) / (len(rows) * MIX.windows),
            "patches": index.patches.sum() / (len(rows) * MIX.windows * MIX.window_patches),
        }
    )
    assert (choice.rows, choice.too_large) == (32, 0)
    assert choice.samples_per_row == 500 / len(rows)
    flops = sum(ola.flops(OlaConfig.tiny(), MIX).values())
    assert choice.cost == pytest.approx(flops * len(rows) / index.tokens.sum())


def test_recommended_budgets_hold_all_records_and_the_cheapest_is_well_used():
    index = concatenate([realistic(400), make_index([Failure("missing file", "gone")] * 3)])
    choices = recommend_budgets([index], OlaConfig.tiny(), **SIZES)
    assert [choice.cost for choice in choices] == sorted(choice.cost for choice in choices)
    assert all(choice.too_large == 0 and choice.rows % 4 == 0 for choice in choices)
    assert {choice.budget.tokens for choice in choices} == {1024, 2048}
    assert max(choices[0].utilization.values()) > 0.9


def test_text_alone_needs_neither_windows_nor_chunks():
    index = index_of([(n + 1, 0, []) for n in range(100)])
    for choice in recommend_budgets([index], OlaConfig.tiny(), **SIZES):
        assert (choice.budget.windows, choice.budget.window_patches, choice.budget.audio_chunks) == (0, 0, 0)


def test_records_that_no_budget_holds_are_an_error():
    index = index_of([(5000, 0, []), *[(10, 0, [])] * 99])
    with pytest.raises(OlaError, match=r"no budget of 1024 or 2048 tokens holds 100\.0% .*5000 tokens would"):
        recommend_budgets([index], OlaConfig.tiny(), **SIZES)
    choices = recommend_budgets([index], OlaConfig.tiny(), **SIZES, covered=0.99)
    assert {choice.too_large for choice in choices} == {1}
    with pytest.raises(OlaError, match="no record that can be used"):
        recommend_budgets([make_index([])], OlaConfig.tiny(), **SIZES)
