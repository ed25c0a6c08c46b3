"""Samples that could not be used: each is logged, counted, and held against a limit."""

import collections
import dataclasses
import logging
from collections.abc import Sequence

from ola_jax.errors import OlaError, one_line, shortened

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Skip:
    """A record that was left out, and why."""

    source: str  # the file of its records
    index: int  # place in that file
    kind: str  # of the reason: missing file, unreadable media, malformed record, too large, nothing to learn
    reason: str  # names the record's id, the file and what is wrong
    number: int = 0  # of the source; the same file may be two sources


class SkipLog:
    """The skipped records of a run, at most `limit` of all; `totals` are the records of each source.

    A record met again in a later epoch is counted once. A source all of whose records fail is an error
    whatever the limit: it would never give a sample.
    """

    def __init__(self, limit: int, totals: Sequence[int]):
        self._limit, self._totals = limit, totals
        self._skips: dict[tuple[int, int], Skip] = {}
        # Of each source: the records that failed since the last one that could be used.
        self._in_vain: list[set[int]] = [set() for _ in totals]

    def add(self, skip: Skip) -> None:
        """Log and count a skip. Raises OlaError when there are more than the limit, or no record is left."""
        key = (skip.number, skip.index)
        source = shortened(one_line(skip.source), 120)
        where = f"{source}[{skip.index}]"
        if key not in self._skips:
            self._skips[key] = skip
            logger.warning("skipped %s: %s", where, skip.reason)
            if len(self._skips) > self._limit:
                raise OlaError(
                    f"{len(self._skips)} bad samples, at most {self._limit} may be skipped; correct the data "
                    f"or raise the limit; the last: {where}: {skip.reason}"
                )
        in_vain = self._in_vain[skip.number]
        in_vain.add(skip.index)
        if len(in_vain) >= self._totals[skip.number]:
            raise OlaError(
                f"{source}: all {len(in_vain)} records are bad samples; the last: [{skip.index}]: "
                f"{skip.reason}"
            )

    def used(self, number: int) -> None:
        """Note that a record of this source could be used."""
        self._in_vain[number].clear()

    @property
    def skips(self) -> list[Skip]:
        """All so far, in the order met."""
        return list(self._skips.values())

    def counts(self) -> dict[str, int]:
        """How many of each kind so far."""
        return dict(collections.Counter(skip.kind for skip in self.skips))

    def get_state(self) -> list[dict]:
        """The skips as JSON values."""
        return [dataclasses.asdict(skip) for skip in self.skips]

    def set_state(self, state: list[dict]) -> None:
        """Take up the skips of a saved run."""
        skips = [Skip(**values) for values in state]
        self._skips = {(skip.number, skip.index): skip for skip in skips}
        self._in_vain = [set() for _ in self._totals]
