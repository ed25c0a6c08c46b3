import pathlib
import runpy
from typing import Any

import pytest

from ola_jax.config import OlaConfig
from ola_jax.hardware import CHIPS

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "floors.py"


@pytest.fixture(scope="module")
def floors() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_a_row_costs_what_its_products_cost(floors: dict[str, Any]) -> None:
    of_row = {floor.part: floor for floor in floors["floors"](OlaConfig(), floors["ROW"], True)}
    tokens, width, vocabulary = 16_384, 3584, 152_064
    assert of_row["cross-entropy"].flops == 3 * 2 * tokens * width * vocabulary
    # Scores and values, of half the pairs, of 28 layers; twice that, and the scores again, backward.
    assert of_row["decoder attention, one sample"].flops == 28 * 2 * 2 * tokens**2 / 2 * width * 3.5
    weights = 7_070_619_136  # Qwen2.5-7B without its table of embeddings, biases and norms
    products = of_row["llm"].flops / 6 / tokens - 28 * tokens * width
    assert products == pytest.approx(weights, rel=2e-3)


def test_a_decoded_token_is_bound_by_reading_the_weights(floors: dict[str, Any]) -> None:
    token = floors["decode"](OlaConfig(), 2560)
    chip = CHIPS["NVIDIA H100 80GB HBM3"]
    assert token.seconds(chip) == token.bytes / chip.memory_bandwidth > token.flops / chip.flops


def test_blocks_without_a_pair_are_not_counted(floors: dict[str, Any]) -> None:
    share = floors["share_computed"]
    assert share([1024], 1024, 256, False) == 1
    assert share([1024], 1024, 256, True) == 10 / 16
    assert share([256] * 4, 1024, 256, False) == 4 / 16
    assert share([256], 1024, 256, False) == 4 / 16  # rows of padding take the block on the diagonal


def test_pairs_are_those_of_a_segment(floors: dict[str, Any]) -> None:
    share = floors["share_of_pairs"]
    assert share([3, 2], 8, False) == (9 + 4) / 64
    assert share([3, 2], 8, True) == (6 + 3) / 64


def test_the_tables_are_printed(floors: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    floors["main"]()
    shown = capsys.readouterr().out
    assert "omni row" in shown
    assert "one decoded token" in shown
    assert "share computed" in shown
