"""Records that could not be used: each is logged and counted, up to a limit."""

import collections
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from ola_jax.errors import OlaError, one_line, shortened

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
    """The skipped records of a run, at most `limit`; `totals` are the numbers of records of the sources.

    A record that fails again in a later epoch is counted once. A source whose records all fail is an error
    whatever the limit, because it would never yield a sample.
    """

    def __init__(self, limit: int, totals: Sequence[int]) -> None:
        self._limit, self._totals = limit, totals
        self._skips: dict[tuple[int, int], Skip] = {}
        # For each source, the records that failed since the last one that could be used.
        self._failed: list[set[int]] = [set() for _ in totals]

    def add(self, skip: Skip) -> None:
        """Logs and counts a skip. Raises OlaError above the limit, or if no record of the source is left."""
        key = (skip.number, skip.index)
        source = shortened(one_line(skip.source), 120)
        where = f"{source}[{skip.index}]"
        if key not in self._skips:
            self._skips[key] = skip
            logger.warning("skipped %s: %s", where, skip.reason)
            if len(self._skips) > self._limit:
                records = "record" if len(self._skips) == 1 else "records"
                raise OlaError(
                    f"{len(self._skips)} bad {records}, at most {self._limit} may be skipped (max_skipped); "
                    f"correct the data or raise the limit; the last: {where}: {skip.reason}"
                )
        failed = self._failed[skip.number]
        failed.add(skip.index)
        if len(failed) >= self._totals[skip.number]:
            raise OlaError(
                f"{source}: all {len(failed)} records are bad; correct the data; the last: "
                f"[{skip.index}]: {skip.reason}"
            )

    def used(self, number: int) -> None:
        """Notes that a record of this source could be used."""
        self._failed[number].clear()

    @property
    def skips(self) -> list[Skip]:
        """All skips so far, in order."""
        return list(self._skips.values())

    def counts(self) -> dict[str, int]:
        """The number of skips of each kind so far."""
        return dict(collections.Counter(skip.kind for skip in self.skips))

    def get_state(self) -> list[dict[str, Any]]:
        """The skips as JSON values."""
        return [dataclasses.asdict(skip) for skip in self.skips]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Restores the skips of a saved run."""
        skips = [Skip(**values) for values in state]
        self._skips = {(skip.number, skip.index): skip for skip in skips}
        self._failed = [set() for _ in self._totals]
