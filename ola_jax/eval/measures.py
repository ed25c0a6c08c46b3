"""Measures: figures made of ratios over units, so that one code gives their values and their intervals.

A unit is what is right or wrong as one: a question, the four rolled copies of a question, all questions about
a figure, an utterance with its errors and words. A measure is the mean of one or more parts, each the sum
of its numerators over the sum of its denominators.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from ola_jax.errors import OlaError
from ola_jax.eval.intervals import Interval, Z, bootstrap, clustered_error, clustered_mean, wilson
from ola_jax.typing import Float, HostArray, Int


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part that counts as one; units of one cluster are not independent of each other."""

    id: str
    cluster: str
    numerator: float
    denominator: float = 1.0


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure: the mean of its parts, times `scale`, or the exponential of it."""

    name: str
    parts: tuple[tuple[Unit, ...], ...]
    scale: float = 100.0
    exponential: bool = False  # of perplexity
    higher_is_better: bool = True
    of_groups: bool = False  # the interval is taken by bootstrap even where units are right or wrong

    @property
    def count(self) -> int:
        """The number of distinct units."""
        return len({unit.id for part in self.parts for unit in part})


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measure's value and interval."""

    name: str
    value: float
    interval: Interval
    count: int


def summarize(measure: Measure, *, seed: int = 0) -> Figure:
    """The figure of a measure. Raises OlaError if a part has no unit."""
    table = _tables([measure])[0]
    value = float(_scaled(_ratios(table, np.ones((1, table.clusters))), measure)[0])
    return Figure(measure.name, value, _interval(measure, table, seed), measure.count)


def compare(first: Measure, second: Measure, *, seed: int = 0) -> tuple[Figure, int]:
    """The difference `second - first` over the units that both have, paired; and how many have only one.

    For plain means the clustered standard error of the differences, else a bootstrap that draws the same
    clusters for both.
    """
    if (first.name, len(first.parts)) != (second.name, len(second.parts)):
        raise OlaError(f"{first.name!r} and {second.name!r} are not the same measure")
    a, b = [], []
    left_out = 0
    for mine, theirs in zip(first.parts, second.parts, strict=True):
        shared = {u.id for u in mine} & {u.id for u in theirs}
        left_out += len({u.id for u in mine} ^ {u.id for u in theirs})
        a.append(tuple(sorted((u for u in mine if u.id in shared), key=lambda u: u.id)))
        b.append(tuple(sorted((u for u in theirs if u.id in shared), key=lambda u: u.id)))
    one, two = (dataclasses.replace(m, parts=tuple(p)) for m, p in ((first, a), (second, b)))
    left, right = _tables([one, two])
    everything = np.ones((1, left.clusters))
    values = [_scaled(_ratios(table, everything), one)[0] for table in (left, right)]
    difference = float(values[1] - values[0])
    if _is_mean(one) and _is_mean(two):
        scores = np.array([u.numerator for u in two.parts[0]]) - np.array([u.numerator for u in one.parts[0]])
        half = Z * one.scale * clustered_error(scores, left.members[0])
        interval = Interval(difference - half, difference + half, "clustered")
    else:
        interval = bootstrap(
            lambda drawn: _scaled(_ratios(right, drawn), one) - _scaled(_ratios(left, drawn), one),
            left.clusters,
            seed=seed,
        )
    return Figure(first.name, difference, interval, one.count), left_out


@dataclasses.dataclass(frozen=True)
class _Table:
    """Sums of each part by cluster."""

    numerators: Float[HostArray, "parts clusters"]
    denominators: Float[HostArray, "parts clusters"]
    members: tuple[Int[HostArray, "_"], ...]  # the cluster of each unit of a part

    @property
    def clusters(self) -> int:
        return self.numerators.shape[1]


def _tables(measures: Sequence[Measure]) -> list[_Table]:
    """Tables of measures over the same clusters."""
    names = sorted({unit.cluster for m in measures for part in m.parts for unit in part})
    number = {name: i for i, name in enumerate(names)}
    tables = []
    for measure in measures:
        if not measure.parts or not all(measure.parts):
            raise OlaError(f"{measure.name}: no question to take it from")
        members = tuple(np.array([number[u.cluster] for u in part]) for part in measure.parts)
        sums = lambda values, cluster: np.bincount(cluster, weights=values, minlength=len(names))
        tops = [sums([u.numerator for u in p], m) for p, m in zip(measure.parts, members, strict=True)]
        bottoms = [sums([u.denominator for u in p], m) for p, m in zip(measure.parts, members, strict=True)]
        tables.append(_Table(np.stack(tops), np.stack(bottoms), members))
    return tables


def _ratios(table: _Table, drawn: Float[HostArray, "r clusters"]) -> Float[HostArray, "r"]:
    """The mean over parts for each row of draws; a part of which nothing was drawn is left out."""
    tops, bottoms = drawn @ table.numerators.T, drawn @ table.denominators.T
    present = bottoms > 0
    ratios = np.where(present, tops / np.where(present, bottoms, 1.0), 0.0)
    counts = present.sum(axis=1)
    return np.where(counts > 0, ratios.sum(axis=1) / np.maximum(counts, 1), math.nan)


def _scaled(value: Float[HostArray, "r"], measure: Measure) -> Float[HostArray, "r"]:
    return measure.scale * (np.exp(value) if measure.exponential else value)


def _is_mean(measure: Measure) -> bool:
    units = measure.parts[0]
    return (
        len(measure.parts) == 1
        and not (measure.exponential or measure.of_groups)
        and all(unit.denominator == 1 for unit in units)
    )


def _common_score(measure: Measure) -> int | None:
    """The score of all units, if all are right (1) or all wrong (0); else None."""
    units = [unit for part in measure.parts for unit in part]
    scores = {unit.numerator for unit in units}
    if measure.exponential or len(scores) > 1 or any(unit.denominator != 1 for unit in units):
        return None
    (score,) = scores
    return int(score) if score in (0, 1) else None


def _interval(measure: Measure, table: _Table, seed: int) -> Interval:
    units = measure.parts[0]
    if (same := _common_score(measure)) is not None and table.clusters > 1:
        # Neither standard error nor bootstrap has a width here: at best the clusters are independent.
        found = wilson(same * table.clusters, table.clusters)
        return Interval(found.low * measure.scale, found.high * measure.scale, found.method)
    if not _is_mean(measure):
        return bootstrap(lambda drawn: _scaled(_ratios(table, drawn), measure), table.clusters, seed=seed)
    if len({u.cluster for u in units}) == len(units) and all(u.numerator in (0, 1) for u in units):
        found = wilson(round(sum(u.numerator for u in units)), len(units))
    else:
        found = clustered_mean(np.array([u.numerator for u in units]), table.members[0])
        if all(0 <= u.numerator <= 1 for u in units):  # so is their mean
            found = Interval(max(found.low, 0.0), min(found.high, 1.0), found.method)
    return Interval(found.low * measure.scale, found.high * measure.scale, found.method)
