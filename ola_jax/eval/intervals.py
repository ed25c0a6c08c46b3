"""95 % intervals: Wilson's, of means with clusters, by bootstrap over clusters; paired differences.

Clustered standard errors: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from ola_jax.errors import OlaError
from ola_jax.typing import Float, HostArray, Int

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
RESAMPLES = 10_000
BLOCK = 500  # resamples at a time: limits memory

Method = Literal["wilson", "clustered", "bootstrap"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval, in the unit of its value; `low` and `high` are NaN where none can be given."""

    low: float
    high: float
    method: Method


def wilson(successes: int, count: int) -> Interval:
    """Wilson's score interval of a share, for independent questions that are right or wrong."""
    if not 0 <= successes <= count or count < 1:
        raise OlaError(f"{successes} of {count}: expected from 0 to the number of questions, of at least one")
    share, z2 = successes / count, Z * Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == count else centre + half
    return Interval(low, high, "wilson")


def clustered_error(values: Float[HostArray, "n"], clusters: Int[HostArray, "n"]) -> float:
    """Standard error of the mean of values that belong to clusters, such as the questions about one video.

    With clusters of one it is the usual one, up to the factor of small samples n / (n - 1).
    """
    deviations = values - values.mean()
    sums = np.bincount(clusters, weights=deviations)
    count = len(np.unique(clusters))
    if count < 2:
        return math.nan
    return float(math.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values))


def clustered_mean(values: Float[HostArray, "n"], clusters: Int[HostArray, "n"]) -> Interval:
    """The mean plus and minus 1.96 clustered standard errors."""
    mean, half = float(values.mean()), Z * clustered_error(values, clusters)
    return Interval(mean - half, mean + half, "clustered")


def bootstrap(
    statistic: Callable[[Float[HostArray, "r clusters"]], Float[HostArray, "r"]],
    clusters: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """The 2.5 % and 97.5 % quantiles of a statistic over resampled clusters.

    `statistic` gets how often each cluster was drawn, for several resamples at a time.
    """
    if clusters < 2:
        return Interval(math.nan, math.nan, "bootstrap")
    generator = np.random.default_rng(seed)
    even = np.full(clusters, 1 / clusters)
    found = [
        statistic(generator.multinomial(clusters, even, size=min(BLOCK, resamples - done)).astype(np.float64))
        for done in range(0, resamples, BLOCK)
    ]
    low, high = np.nanquantile(np.concatenate(found), [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap")
