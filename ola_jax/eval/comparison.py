"""Comparison of two runs over the questions that both answered."""

import dataclasses
import math
import pathlib

import rich.table

from ola_jax.errors import OlaError
from ola_jax.eval.measures import Figure, compare, summarize
from ola_jax.eval.results import read_measures


@dataclasses.dataclass(frozen=True)
class Difference:
    """A figure of both runs, and its paired difference, second minus first."""

    first: float
    second: float
    difference: Figure
    left_out: int  # units that only one run has

    @property
    def verdict(self) -> str:
        """Either "higher" or "lower" if the interval leaves out 0, else "unclear"."""
        low, high = self.difference.interval.low, self.difference.interval.high
        if not (math.isfinite(low) and math.isfinite(high)):
            return "too few"
        return "higher" if low > 0 else "lower" if high < 0 else "unclear"


def compare_runs(first: pathlib.Path, second: pathlib.Path) -> list[Difference]:
    """The differences of all measures that both runs have. Raises OlaError for runs of different tasks."""
    (results, mine), (others, theirs) = read_measures(first), read_measures(second)
    if results["task"] != others["task"]:
        raise OlaError(f"{first} is a run of {results['task']}, {second} of {others['task']}")
    named = {measure.name: measure for measure in theirs}
    found = []
    for measure in mine:
        other = named.get(measure.name)
        if other is None or len(other.parts) != len(measure.parts):
            continue
        difference, left_out = compare(measure, other)
        found.append(Difference(summarize(measure).value, summarize(other).value, difference, left_out))
    if not found:
        raise OlaError(f"{first} and {second} have no figure in common")
    return found


def comparison_table(differences: list[Difference]) -> rich.table.Table:
    """A row for each figure."""
    out = rich.table.Table(title="paired differences, second minus first, with 95 % intervals")
    for name in ("figure", "first", "second", "difference", "95 % interval", "of", "left out", "second is"):
        out.add_column(name, justify="left" if name == "figure" else "right")
    for each in differences:
        interval = each.difference.interval
        finite = math.isfinite(interval.low) and math.isfinite(interval.high)
        out.add_row(
            each.difference.name,
            f"{each.first:.2f}",
            f"{each.second:.2f}",
            f"{each.difference.value:+.2f}",
            f"{interval.low:+.2f} to {interval.high:+.2f}" if finite else "none",
            str(each.difference.count),
            str(each.left_out),
            each.verdict,
        )
    return out
