"""Scores become the figures that benchmarks report."""

import pytest

from ola_jax.eval import counting
from ola_jax.eval.measures import Figure, summarize
from tests.eval.made_up import graded


def figures(measures: list) -> dict[str, Figure]:
    return {figure.name: figure for figure in map(summarize, measures)}


def test_a_circular_question_is_right_if_all_of_its_copies_are() -> None:
    copy = lambda k, n: str(n + k * 10**6)
    scores = {1: (1, 1, 1, 1), 2: (1, 1, 0, 1), 3: (1,), 4: (0, 0)}
    answers = [
        graded(copy(k, n), score, "cat", circular=str(n), image=str(n))
        for n, each in scores.items()
        for k, score in enumerate(each)
    ]
    answers += [graded(copy(1, 9), 1, "cat", circular="9", image="9")]  # its first copy is missing
    found = figures(counting.circular(answers))
    assert found["circular accuracy"].value == pytest.approx(50.0)
    assert found["circular accuracy"].count == 4
    assert found["circular accuracy"].interval.method == "bootstrap"
    assert found["accuracy of single answers"].value == pytest.approx(100 * 8 / 11)


def test_hallusion_bench_has_the_mean_of_three_accuracies() -> None:
    scores = {
        ("s1", "0", "0"): 1,
        ("s1", "0", "1"): 0,
        ("s1", "1", "0"): 1,
        ("s1", "1", "1"): 1,
        ("s2", "1", "0"): 1,
    }
    answers = [
        graded("_".join(name), score, set=name[0], figure="_".join(name[:2]), question=f"{name[0]}_{name[2]}")
        for name, score in scores.items()
    ]
    found = figures(counting.hallusion(answers))
    assert found["aAcc"].value == pytest.approx(80.0)
    assert found["fAcc"].value == pytest.approx(200 / 3)  # figures s1_0, s1_1, s2_1
    assert found["qAcc"].value == pytest.approx(200 / 3)  # questions s1_0, s1_1, s2_0
    assert found["mean of aAcc, fAcc, qAcc"].value == pytest.approx((80 + 400 / 3) / 3)


def test_categories_are_averaged_or_listed() -> None:
    answers = [graded("1", 1, "x", video="v"), graded("2", 1, "x", video="v"), graded("3", 0, "y", video="w")]
    mean = figures(counting.mean_of_categories("video")(answers))
    assert mean["mean of categories"].value == pytest.approx(50.0)
    assert mean["accuracy"].value == pytest.approx(200 / 3)
    listed = figures(counting.accuracy("video", "video")(answers))
    assert list(listed) == ["accuracy", "x", "y", "v", "w"]
    assert listed["accuracy"].interval.method == "clustered"
    points = figures(counting.accuracy(name="points", scale=1000.0)([graded("1", 1), graded("2", 0)]))
    assert points["points"].value == 500.0


def test_error_rates_sum_errors_and_words() -> None:
    answers = [
        graded("1", 0, found="1/10"),
        graded("2", 1, found="0/30"),
        graded("3", 0, found=None),
    ]  # the last failed
    (measure,) = counting.error_rate("WER")(answers)
    assert summarize(measure).value == pytest.approx(100 * 2 / 41)
    assert not measure.higher_is_better
