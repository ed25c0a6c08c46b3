"""Packing: several samples share one row of a batch."""

import dataclasses
from typing import Any

import grain

from ola_jax.batch import Budget
from ola_jax.data.assembly import misfit
from ola_jax.data.sample import Sample
from ola_jax.data.skips import Skip, SkipLog

MAX_WAITING = 8  # samples without a place after which the open rows are given out


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """What became of one record: a sample, or the reason for which there is none."""

    source: str
    index: int
    sample: Sample | None
    reason: str = ""


class Packer(grain.IterDataset[list[Sample]]):
    """Fills rows of a budget with samples, in order of arrival, each into the first row with room.

    `open_rows` rows are filled at a time. Samples that find no room wait for the next rows. A record
    without a sample, or one that fits no empty row, is skipped and told to `skips`.
    """

    def __init__(self, parent: grain.IterDataset[Loaded], budget: Budget, open_rows: int, skips: SkipLog):
        super().__init__(parent)
        self._budget, self._open_rows, self._skips = budget, open_rows, skips

    def __iter__(self) -> grain.DatasetIterator[list[Sample]]:
        return PackIterator(iter(self._parent), self._budget, self._open_rows, self._skips)


class PackIterator(grain.DatasetIterator[list[Sample]]):
    """Gives the filled rows one by one.

    Its state is the state of its parent before the rows at hand were begun, the parent's state
    before each sample that waited then, and how many of the rows have been given out: from these
    the very same rows are filled again.
    """

    def __init__(self, parent: grain.DatasetIterator[Loaded], budget: Budget, open_rows: int, skips: SkipLog):
        super().__init__(parent)
        self._budget, self._open_rows, self._skips = budget, open_rows, skips
        self._rows: list[list[Sample]] = []
        self._tokens: list[int] = []  # of each row
        self._next_row = 0
        self._waiting: list[tuple[Any, Sample]] = []  # with the parent's state before each
        self._waiting_states: list[Any] = []  # after set_state: of those still to be read again
        self._begun = self._resume_state()

    def __next__(self) -> list[Sample]:
        if self._next_row >= len(self._rows):
            given = self._next_row if not self._rows else 0  # after set_state: already given out
            self._begun = self._resume_state()
            self._fill()
            self._next_row = given
        if self._next_row >= len(self._rows):
            raise StopIteration
        self._next_row += 1
        return self._rows[self._next_row - 1]

    def get_state(self) -> dict[str, Any]:
        """JSON values that `set_state` takes."""
        within = self._next_row < len(self._rows) or not self._rows
        place = (
            {**self._begun, "next_row": self._next_row} if within else {**self._resume_state(), "next_row": 0}
        )
        return {**place, "skips": self._skips.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `get_state` was called."""
        self._parent.set_state(state["parent"])
        self._skips.set_state(state["skips"])
        self._rows, self._waiting, self._waiting_states = [], [], list(state["waiting"])
        self._next_row = state["next_row"]
        self._begun = self._resume_state()

    def _resume_state(self) -> dict[str, Any]:
        waiting = self._waiting_states or [state for state, _ in self._waiting]
        return {"parent": self._parent.get_state(), "waiting": waiting}

    def _fill(self) -> None:
        """Fill the next rows: first with what waits, then from the parent."""
        if self._waiting_states:
            self._read_waiting_again()
        self._rows, self._tokens, still_waiting = [], [], []
        for state, sample in self._waiting:
            if not self._place(sample):
                still_waiting.append((state, sample))
        self._waiting = still_waiting
        while len(self._waiting) < MAX_WAITING:
            state = self._parent.get_state()
            try:
                loaded = next(self._parent)
            except StopIteration:
                return
            sample = loaded.sample
            reason = loaded.reason if sample is None else misfit([sample], self._budget)
            if reason:
                reason = f"record {sample.id!r}: {reason}" if sample and sample.id else reason
                self._skips.add(Skip(loaded.source, loaded.index, reason))
            elif not self._place(sample):
                self._waiting.append((state, sample))

    def _place(self, sample: Sample) -> bool:
        for number, row in enumerate(self._rows):
            tokens = self._tokens[number] + len(sample.tokens)
            if tokens <= self._budget.tokens and misfit([*row, sample], self._budget) is None:
                row.append(sample)
                self._tokens[number] = tokens
                return True
        if len(self._rows) < self._open_rows:
            self._rows.append([sample])
            self._tokens.append(len(sample.tokens))
            return True
        return False

    def _read_waiting_again(self) -> None:
        resume = self._parent.get_state()
        for state in self._waiting_states:
            self._parent.set_state(state)
            self._waiting.append((state, next(self._parent).sample))
        self._parent.set_state(resume)
        self._waiting_states = []
