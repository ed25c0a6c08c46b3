"""Rules say what the harnesses' own functions say (tests/goldens/eval/make.py), and never guess."""

import json
import pathlib
from collections.abc import Callable

import pytest

from ola_jax.eval.benchmarks.common import inferred
from ola_jax.eval.benchmarks.mvbench import MVBENCH
from ola_jax.eval.items import Item
from ola_jax.eval.rules import letters, mathvista, mmmu, words

FOLDER = pathlib.Path(__file__).parents[1] / "goldens/eval"
GOLDEN = json.loads((FOLDER / "rules.json").read_text())
OPTIONS = ("a cat", "a dog", "a bird", "a fish")
CHOICES = dict(zip("ABCD", OPTIONS, strict=True))
FINDERS: dict[str, Callable[[str], str | None]] = {
    "inferred": lambda a: letters.inferred_letter(a, CHOICES),
    "mmmu": lambda a: letters.mmmu_letter(a, CHOICES),
    "worldsense": lambda a: letters.worldsense_letter(a, CHOICES),
    "av_odyssey": lambda a: letters.worldsense_letter(a, CHOICES),
    "air_bench": lambda a: letters.audio_letter(a, "ABCD"),
    "mmau": lambda a: letters.audio_letter(a, "ABCD"),
    "omni_bench": lambda a: letters.omni_bench_letter(a, "ABCD"),
    "ranked": lambda a: letters.ranked_letter(a, "ABCD"),
    "videomme_vlmevalkit": lambda a: letters.first_letter(a, letters.VIDEO_PREFIXES, "ABCD"),
    "longvideobench_vlmevalkit": lambda a: letters.first_letter(a, letters.VIDEO_PREFIXES, "ABCDE"),
    "longvideobench_lmms": lambda a: letters.first_letter(a, letters.LONG_VIDEO_PREFIXES, "ABCDE"),
    "mvbench_lmms": letters.mvbench_letter,
    "yes_or_no": lambda a: words.yes_or_no(Item("1", "", ("Yes",)), a).found,
}


@pytest.mark.parametrize("name", FINDERS)
def test_a_rule_finds_what_the_harness_finds(name: str) -> None:
    found = {answer: FINDERS[name](answer) for answer in GOLDEN[name]}
    assert found == GOLDEN[name]
    assert None in found.values()
    assert len(set(found.values())) > 2


def test_the_open_rule_of_mmmu_accepts_what_the_harness_accepts() -> None:
    for gold, said, right in GOLDEN["mmmu_open"]:
        answers = tuple(gold) if isinstance(gold, list) else (gold,)
        assert bool(mmmu.open_answer(Item("1", "", answers), said).score) == right, (gold, said)
    assert {right for *_, right in GOLDEN["mmmu_open"]} == {True, False}


def test_ocr_answers_are_contained_as_the_harness_has_it() -> None:
    for accepted, said, kind, score in GOLDEN["ocr_lmms"]:
        item = Item("1", "", tuple(accepted), category=kind)
        assert words.contains_answer_folded(item, said).score == score, (accepted, said)
    full_width = Item("1", "", ("１２",), category="Digit String Recognition")
    assert words.contains_answer(full_width, "12").score == 0  # VLMEvalKit does not fold widths
    assert words.contains_answer_folded(full_width, "12").score == 1


def test_an_unreadable_answer_is_wrong_and_said_to_be_unreadable() -> None:
    item = Item("1", "?", ("A",), OPTIONS)
    for answer in ("", "I do not know.", "Z"):
        assert inferred(item, answer).found is None
        assert inferred(item, answer).score == 0
        assert mmmu.lmms_eval(item, answer).found is None
        assert MVBENCH.rules["vlmevalkit"](item, answer).found is None  # the harness takes "" for right
    assert words.is_answer(item, " ").found is None
    assert words.contains_answer(item, "").found is None
    assert mmmu.open_answer(Item("1", "?", ("5",)), " ").found is None


def test_mvbench_takes_the_first_word_as_vlmevalkit_does() -> None:
    rule, item = MVBENCH.rules["vlmevalkit"], Item("1", "?", ("B",), OPTIONS)
    assert [rule(item, a).score for a in ("(B) a dog", "b.", "B", "(B", "B)", "(b) a cat", "(A)", "A")] == [
        *[1.0] * 6,
        0.0,
        0.0,
    ]


def test_ai2d_and_daily_omni_letters() -> None:
    ai2d = lambda a: letters.ai2d_letter(a, "ABCD")
    assert [ai2d(a) for a in ("B. a dog", " C.", "d", "(A)", "A!", "E", "a dog", "")] == [
        *("B", "C", "D", "A", "A"),
        *(None, None, None),
    ]
    starts = lambda a: letters.starting_letter(a, "ABCD")
    assert [starts(a) for a in ("B. a dog", "b", "Because", "(A)", " A", "E", "")] == [
        *("B", "B", "B"),
        *(None, None, None, None),
    ]


def test_open_questions_of_mmmu_are_choices_for_vlmevalkit() -> None:
    item = Item("1", "?", ("24",))
    assert mmmu.vlmevalkit(item, "24").score == 1
    assert mmmu.vlmevalkit(item, "it is 24").score == 1
    assert mmmu.vlmevalkit(item, "42").found is None
    assert mmmu.vlmevalkit(item, "other answers").score == 0


def test_mathvista_reads_bare_values_and_leaves_the_rest_to_a_judge() -> None:
    number = Item("1", "?", ("14",), fields={"answer_type": "integer", "precision": None})
    assert mathvista.vlmevalkit(number, " 14 ").score == 1
    assert mathvista.vlmevalkit(number, "15").found is None  # VLMEvalKit asks the judge about it
    assert mathvista.lmms_eval(number, "15").found == "15"
    assert mathvista.lmms_eval(number, "15").score == 0
    assert mathvista.lmms_eval(number, "it is 14").found is None
    float_item = Item("1", "?", ("0.6",), fields={"answer_type": "float", "precision": 1})
    assert mathvista.vlmevalkit(float_item, "0.60").score == 1
    assert mathvista.compare("0.61", float_item)
    assert not mathvista.compare("no", float_item)
    choice = Item("1", "?", ("B",), OPTIONS, fields={"answer_type": "text"})
    assert mathvista.vlmevalkit(choice, "(B)").score == 1
    assert mathvista.lmms_eval(choice, "a dog").score == 1
    assert mathvista.lmms_eval(choice, "B").found is None
