"""Records that could not be used: each is logged and counted, up to a limit."""

import collections
import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

from ola_jax.errors import OlaError, one_line, shortened

SHOWN = 100  # records of a source that are logged at the start of a run

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Skip:
    """A record that was left out, and why."""

    source: str  # the file of its records
    index: int  # position in that file, from 0
    kind: str  # a FailureKind
    reason: str  # with the record's id and the file
    number: int = 0  # of the source; the same file may be two sources


class SkipLog:
    """The skipped records of a run; `totals` are the numbers of records of the sources.

    At most `limit` may be skipped, or `max_bad_fraction` of all records if that is more. A record that fails
    again in a later epoch is counted once. A source whose records all fail is an error whatever the limit,
    because it would never yield a sample.
    """

    def __init__(self, limit: int, totals: Sequence[int], max_bad_fraction: float = 0.0) -> None:
        self._totals = totals
        self._limit = max(limit, math.floor(max_bad_fraction * sum(totals)))
        self._known: dict[tuple[int, int], Skip] = {}  # before the first step
        self._skips: dict[tuple[int, int], Skip] = {}  # since then
        # For each source, the records that failed since the last one that could be used.
        self._failed: list[set[int]] = [set() for _ in totals]

    def add_known(self, skips: Sequence[Skip]) -> None:
        """Logs and counts records that cannot be used, as is known from an index; raises as `add` does."""
        for number, skip in enumerate(skips):
            if number < SHOWN:
                logger.warning("skipped %s: %s", _where(skip), skip.reason)
            self._known[skip.number, skip.index] = skip
        if len(skips) > SHOWN:
            source = _where(skips[0]).rpartition("[")[0]
            logger.warning("skipped %d more records of %s", len(skips) - SHOWN, source)
        if skips:
            self._check_source(skips[-1], len(skips))
            self._check_limit(skips[-1])

    def add(self, skip: Skip) -> None:
        """Logs and counts a skip. Raises OlaError above the limit, or if no record of the source is left."""
        key = (skip.number, skip.index)
        if key not in self._skips and key not in self._known:
            self._skips[key] = skip
            logger.warning("skipped %s: %s", _where(skip), skip.reason)
            self._check_limit(skip)
        failed = self._failed[skip.number]
        failed.add(skip.index)
        known = sum(number == skip.number for number, _ in self._known)
        self._check_source(skip, len(failed) + known)

    def _check_limit(self, skip: Skip) -> None:
        if (count := len(self._known) + len(self._skips)) > self._limit:
            raise OlaError(
                f"{count} bad {'record' if count == 1 else 'records'}, at most {self._limit} may be skipped "
                "(max_skipped, max_bad_fraction); correct the data or raise the limit; the last: "
                f"{_where(skip)}: {skip.reason}"
            )

    def _check_source(self, skip: Skip, failed: int) -> None:
        if failed >= self._totals[skip.number]:
            source = _where(skip).rpartition("[")[0]
            raise OlaError(
                f"{source}: all {failed} records are bad; correct the data; the last: [{skip.index}]: "
                f"{skip.reason}"
            )

    def used(self, number: int) -> None:
        """Notes that a record of this source could be used."""
        self._failed[number].clear()

    @property
    def skips(self) -> list[Skip]:
        """All skips so far, in order."""
        return [*self._known.values(), *self._skips.values()]

    def counts(self) -> dict[str, int]:
        """The number of skips of each kind so far."""
        return dict(collections.Counter(skip.kind for skip in self.skips))

    def get_state(self) -> list[dict[str, Any]]:
        """The skips since the first step as JSON values; the others are known at the start."""
        return [dataclasses.asdict(skip) for skip in self._skips.values()]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Restores the skips of a saved run."""
        skips = [Skip(**values) for values in state]
        self._skips = {(skip.number, skip.index): skip for skip in skips}
        self._failed = [set() for _ in self._totals]


def _where(skip: Skip) -> str:
    return f"{shortened(one_line(skip.source), 120)}[{skip.index}]"
