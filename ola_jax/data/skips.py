"""Samples that could not be used: each is logged, counted, and held against a limit."""

import collections
import dataclasses
import logging

from ola_jax.errors import OlaError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Skip:
    """A record that was left out, and why."""

    source: str  # the file of its records
    index: int  # place in that file
    kind: str  # of the reason: missing file, unreadable media, malformed record, too large
    reason: str  # names the record's id, the file and what is wrong


class SkipLog:
    """The skipped records of a run, at most `limit` of all `total`.

    A record met again in a later epoch is counted once.
    """

    def __init__(self, limit: int, total: int):
        self._limit, self._total = limit, total
        self._skips: dict[tuple[str, int], Skip] = {}

    def add(self, skip: Skip) -> None:
        """Log and count a skip. Raises OlaError when there are more than the limit, or no record is left."""
        key = (skip.source, skip.index)
        if key in self._skips:
            return
        self._skips[key] = skip
        logger.warning("skipped %s[%d]: %s", *key, skip.reason)
        last = f"the last: {skip.source}[{skip.index}]: {skip.reason}"
        if len(self._skips) > self._limit:
            raise OlaError(
                f"{len(self._skips)} bad samples, at most {self._limit} may be skipped; mend the data or "
                f"raise the limit; {last}"
            )
        if len(self._skips) >= self._total:
            raise OlaError(f"all {self._total} records are bad samples; {last}")

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
        self._skips = {(s["source"], s["index"]): Skip(**s) for s in state}
