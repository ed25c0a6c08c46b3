"""Error rates are those that lmms-eval's own code counts (tests/goldens/eval/make_wer.py)."""

import json
import pathlib

import pytest

from ola_jax.eval.benchmark import Graded
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.counting import error_rate
from ola_jax.eval.items import Item
from ola_jax.eval.measures import summarize
from ola_jax.eval.wer import transcript_errors

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "goldens/eval/wer.json").read_text())


@pytest.mark.parametrize(("reference", "hypothesis", "rate"), GOLDEN["en"])
def test_english_utterances(reference: str, hypothesis: str, rate: float) -> None:
    found = transcript_errors(reference, hypothesis)
    assert found.errors / found.length == pytest.approx(rate)


def test_the_rate_of_a_corpus_is_all_errors_over_all_words() -> None:
    rule = benchmark("librispeech").rules["lmms_eval"]
    graded = []
    for number, (reference, hypothesis, _) in enumerate(GOLDEN["en"]):
        item = Item(str(number), "", (reference,))
        graded.append(Graded(item, hypothesis, rule(item, hypothesis)))
    (measure,) = error_rate("WER")(graded)
    figure = summarize(measure)
    assert figure.value == pytest.approx(100 * GOLDEN["en_all"])
    assert figure.interval.low < figure.value < figure.interval.high
    assert figure.interval.method == "bootstrap"


@pytest.mark.parametrize(("reference", "hypothesis", "rate"), GOLDEN["zh"])
def test_chinese_utterances(reference: str, hypothesis: str, rate: float) -> None:
    found = transcript_errors(reference, hypothesis, "zh")
    if "Ａ" in reference:  # lmms-eval does not fold widths and case
        assert (found.errors, rate > 0) == (0, True)
    else:
        assert found.errors / found.length == pytest.approx(rate)


def test_spaces_and_widths_of_chinese_do_not_count() -> None:
    assert transcript_errors("今天天气", "今天 天气", "zh").errors == 0
    assert transcript_errors("１２３，好", "123好", "zh").errors == 0
    assert transcript_errors("今天天气", "今天天", "zh").errors == 1


def test_an_empty_reference_counts_what_was_inserted() -> None:
    assert transcript_errors("", "a b").errors == 2
    assert transcript_errors("", "a b").length == 0
    assert transcript_errors("", "").errors == 0
