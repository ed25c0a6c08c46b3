"""Intervals against closed forms and scipy, and how often they cover the truth in simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from ola_jax.errors import OlaError
from ola_jax.eval.intervals import Z, bootstrap, clustered_error, clustered_mean, wilson
from ola_jax.eval.measures import Measure, Unit, compare, summarize


@pytest.mark.parametrize(("right", "count"), [(0, 5), (1, 3), (50, 100), (99, 100), (7, 7), (684, 1000)])
def test_wilson_is_scipys(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = wilson(right, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("right", "count"), [(1, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_refused(right: int, count: int) -> None:
    with pytest.raises(OlaError, match="expected from 0 to the number of questions"):
        wilson(right, count)


def test_with_clusters_of_one_the_clustered_error_is_the_usual_one() -> None:
    values = np.random.default_rng(0).random(50)
    assert clustered_error(values, np.arange(50)) == pytest.approx(stats.sem(values))


def test_equal_answers_within_clusters_count_as_one_each() -> None:
    means = np.random.default_rng(0).random(20)
    repeated, clusters = np.repeat(means, 5), np.repeat(np.arange(20), 5)
    assert clustered_error(repeated, clusters) == pytest.approx(stats.sem(means))
    assert clustered_error(repeated, np.arange(100)) < 0.5 * stats.sem(means)
    found = clustered_mean(repeated, clusters)
    assert found.high - found.low == pytest.approx(2 * Z * stats.sem(means))


def test_one_cluster_has_no_interval() -> None:
    assert math.isnan(clustered_error(np.array([0.0, 1.0]), np.array([0, 0])))
    assert math.isnan(bootstrap(lambda drawn: drawn[:, 0], 1).low)


def test_a_bootstrap_of_a_mean_agrees_with_its_closed_form() -> None:
    values = np.random.default_rng(1).random(400)
    found = bootstrap(lambda drawn: drawn @ values / drawn.sum(axis=1), 400)
    half = Z * stats.sem(values)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )
    assert bootstrap(lambda drawn: drawn @ values, 400) == bootstrap(lambda drawn: drawn @ values, 400)


def measure(scores: np.ndarray, clusters: np.ndarray, **options: object) -> Measure:
    units = tuple(
        Unit(str(i), str(c), float(s)) for i, (s, c) in enumerate(zip(scores, clusters, strict=True))
    )
    return Measure("m", (units,), scale=1.0, **options)


def coverage(make: "object", truth: float, runs: int = 300) -> float:
    """How often the interval of `make(generator)` contains the truth."""
    assert callable(make)
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(runs):
        interval = make(generator)
        inside += interval.low <= truth <= interval.high
    return inside / runs


def test_intervals_cover_the_truth_about_19_times_in_20() -> None:
    plain = lambda g: summarize(measure(g.random(200) < 0.7, np.arange(200))).interval

    def videos(generator: np.random.Generator) -> object:
        """120 videos of 3 questions, whose difficulty differs from video to video."""
        ease = generator.beta(2, 2, 120)
        right = generator.random((120, 3)) < ease[:, None]
        return summarize(measure(right.ravel(), np.repeat(np.arange(120), 3))).interval

    def ignoring_videos(generator: np.random.Generator) -> object:
        ease = generator.beta(0.3, 0.3, 120)
        right = generator.random((120, 3)) < ease[:, None]
        return summarize(measure(right.ravel(), np.arange(360))).interval

    assert 0.92 <= coverage(plain, 0.7) <= 0.98
    assert 0.91 <= coverage(videos, 0.5) <= 0.985
    assert coverage(ignoring_videos, 0.5) < 0.85  # what clusters are for


def test_a_bootstrap_over_utterances_covers_the_word_error_rate() -> None:
    def rate(generator: np.random.Generator) -> object:
        words = generator.integers(5, 40, 150)
        errors = generator.binomial(words, generator.beta(1, 19, 150))
        units = tuple(
            Unit(str(i), str(i), float(e), float(w))
            for i, (e, w) in enumerate(zip(errors, words, strict=True))
        )
        return summarize(Measure("WER", (units,), scale=1.0)).interval

    assert 0.9 <= coverage(rate, 0.05, runs=40) <= 1.0


def test_the_kind_of_interval_follows_the_units() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0])
    assert summarize(measure(right, np.arange(4))).interval.method == "wilson"
    assert summarize(measure(right, np.array([0, 0, 1, 1]))).interval.method == "clustered"
    assert summarize(measure(right / 2, np.arange(4))).interval.method == "clustered"
    assert summarize(measure(right, np.arange(4), of_groups=True)).interval.method == "bootstrap"
    two = measure(right, np.arange(4)).parts * 2
    assert summarize(Measure("mean", two)).interval.method == "bootstrap"


def test_a_measure_is_the_mean_of_its_parts_and_a_ratio_in_each() -> None:
    first = (Unit("a", "a", 1.0, 2.0), Unit("b", "b", 2.0, 4.0))
    second = (Unit("c", "c", 3.0, 4.0),)
    assert summarize(Measure("m", (first, second))).value == pytest.approx(100 * (0.5 + 0.75) / 2)
    assert summarize(Measure("m", (first,), scale=1.0, exponential=True)).value == pytest.approx(math.e**0.5)
    with pytest.raises(OlaError, match="m: no question to take it from"):
        summarize(Measure("m", ((),)))


def test_paired_differences_are_those_of_the_answers() -> None:
    generator = np.random.default_rng(2)
    first = (generator.random(300) < 0.5).astype(float)
    second = np.where(generator.random(300) < 0.1, 1.0, first)  # better, and mostly the same
    figure, left_out = compare(measure(first, np.arange(300)), measure(second, np.arange(300)))
    difference = second - first
    half = Z * stats.sem(difference)
    assert left_out == 0
    assert figure.value == pytest.approx(difference.mean())
    assert (figure.interval.low, figure.interval.high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half)
    )
    assert figure.interval.low > 0
    assert 2 * half < summarize(measure(first, np.arange(300))).interval.high  # much narrower than unpaired
    by_groups = [measure(x, np.arange(300), of_groups=True) for x in (first, second)]
    drawn, _ = compare(*by_groups)
    assert drawn.interval.method == "bootstrap"
    assert (drawn.interval.low, drawn.interval.high) == pytest.approx(
        (figure.interval.low, figure.interval.high), abs=0.1 * half
    )


def test_a_difference_is_taken_over_what_both_have() -> None:
    one = Measure("m", ((Unit("a", "a", 1.0), Unit("b", "b", 0.0), Unit("c", "c", 1.0)),))
    two = Measure("m", ((Unit("b", "b", 1.0), Unit("c", "c", 1.0), Unit("d", "d", 0.0)),))
    figure, left_out = compare(one, two)
    assert (figure.value, figure.count, left_out) == (50.0, 2, 2)
    with pytest.raises(OlaError, match="'m' and 'n' are not the same measure"):
        compare(one, Measure("n", one.parts))


@pytest.mark.parametrize("score", [0.0, 1.0])
@pytest.mark.parametrize("of_groups", [False, True])
def test_all_right_or_all_wrong_is_not_taken_for_certain(score: float, of_groups: bool) -> None:
    found = summarize(measure(np.full(40, score), np.repeat(np.arange(20), 2), of_groups=of_groups))
    expected = wilson(int(20 * score), 20)  # as many as there are clusters
    assert (found.interval.low, found.interval.high) == (expected.low, expected.high)


def test_an_interval_of_a_share_ends_at_0_and_1() -> None:
    right = np.array([1.0, 1.0, 1.0, 0.0])
    found = summarize(measure(right, np.array([0, 0, 1, 1]))).interval
    assert found.method == "clustered"
    assert found.high == 1.0
