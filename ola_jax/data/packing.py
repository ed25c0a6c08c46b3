"""Packing: several samples share one row of a batch."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain

from ola_jax.batch import Budget
from ola_jax.data.assembly import misfit
from ola_jax.data.sample import Sample
from ola_jax.data.skips import Skip, SkipLog

MAX_WAITING = 8  # samples without room in any row; then the open rows are returned


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedRecord:
    """The result of loading one record: a sample, or the reason why there is none."""

    source: str
    index: int
    sample: Sample | None
    kind: str = ""  # of the reason, as in Skip
    reason: str = ""
    number: int = 0  # of the source


def samples(row: Sequence[LoadedRecord]) -> list[Sample]:
    """The samples of a row."""
    return [loaded.sample for loaded in row if loaded.sample is not None]


class Packer(grain.IterDataset[list[LoadedRecord]]):
    """Packs samples into rows of a budget, in order of arrival, each into the first row with room.

    `open_rows` rows are packed at a time. Samples that find no room wait for the next rows. A record
    without a sample, or one that fits no empty row, is skipped and reported to `skips`.
    """

    def __init__(
        self, parent: grain.IterDataset[LoadedRecord], *, budget: Budget, open_rows: int, skips: SkipLog
    ):
        super().__init__(parent)
        self._budget, self._open_rows, self._skips = budget, open_rows, skips

    def __iter__(self) -> grain.DatasetIterator[list[LoadedRecord]]:
        return PackIterator(
            iter(self._parent), budget=self._budget, open_rows=self._open_rows, skips=self._skips
        )


class PackIterator(grain.DatasetIterator[list[LoadedRecord]]):
    """The packed rows, one by one.

    Its state is the state of its parent before the current rows were begun, the parent's state
    before each sample that waited then, and how many of the rows have been returned: the same rows
    are packed again from these.
    """

    def __init__(
        self, parent: grain.DatasetIterator[LoadedRecord], *, budget: Budget, open_rows: int, skips: SkipLog
    ):
        super().__init__(parent)
        self._budget, self._open_rows, self._skips = budget, open_rows, skips
        self._rows: list[list[LoadedRecord]] = []
        self._tokens: list[int] = []  # of each row
        self._next_row = 0
        self._waiting: list[tuple[Any, LoadedRecord]] = []  # with the parent's state before each
        self._waiting_states: list[Any] = []  # after set_state: of those still to be read again
        self._begun = self._resume_state()

    def __next__(self) -> list[LoadedRecord]:
        if self._next_row >= len(self._rows):
            given = self._next_row if not self._rows else 0  # after set_state: already returned
            self._begun = self._resume_state()
            self._pack()
            self._next_row = given
        if self._next_row >= len(self._rows):
            raise StopIteration
        self._next_row += 1
        return self._rows[self._next_row - 1]

    def get_state(self) -> dict[str, Any]:
        """JSON values that `set_state` takes."""
        within = self._next_row < len(self._rows) or not self._rows
        state = (
            {**self._begun, "next_row": self._next_row} if within else {**self._resume_state(), "next_row": 0}
        )
        return {**state, "skips": self._skips.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes exactly where `get_state` was called."""
        self._parent.set_state(state["parent"])
        self._skips.set_state(state["skips"])
        self._rows, self._waiting, self._waiting_states = [], [], list(state["waiting"])
        self._next_row = state["next_row"]
        self._begun = self._resume_state()

    def _resume_state(self) -> dict[str, Any]:
        waiting = self._waiting_states or [state for state, _ in self._waiting]
        return {"parent": self._parent.get_state(), "waiting": waiting}

    def _pack(self) -> None:
        """Packs the next rows: first the samples that wait, then those of the parent."""
        if self._waiting_states:
            self._read_waiting_again()
        self._rows, self._tokens, still_waiting = [], [], []
        for state, loaded in self._waiting:
            if not self._place(loaded):
                still_waiting.append((state, loaded))
        self._waiting = still_waiting
        while len(self._waiting) < MAX_WAITING:
            state = self._parent.get_state()
            try:
                loaded = next(self._parent)
            except StopIteration:
                return
            if skip := self._unusable(loaded):
                self._skips.add(skip)
                continue
            self._skips.used(loaded.number)
            if not self._place(loaded):
                self._waiting.append((state, loaded))

    def _unusable(self, loaded: LoadedRecord) -> Skip | None:
        sample = loaded.sample
        if sample is None:
            return Skip(loaded.source, loaded.index, loaded.kind, loaded.reason, loaded.number)
        if reason := misfit([sample], self._budget):
            reason = f"record {sample.id!r}: {reason}" if sample.id else reason
            return Skip(loaded.source, loaded.index, "too large", reason, loaded.number)
        return None

    def _place(self, loaded: LoadedRecord) -> bool:
        size = sum(len(sample.tokens) for sample in samples([loaded]))
        for number, row in enumerate(self._rows):
            tokens = self._tokens[number] + size
            if tokens <= self._budget.tokens and misfit(samples([*row, loaded]), self._budget) is None:
                row.append(loaded)
                self._tokens[number] = tokens
                return True
        if len(self._rows) < self._open_rows:
            self._rows.append([loaded])
            self._tokens.append(size)
            return True
        return False

    def _read_waiting_again(self) -> None:
        resume = self._parent.get_state()
        for state in self._waiting_states:
            self._parent.set_state(state)
            self._waiting.append((state, next(self._parent)))
        self._parent.set_state(resume)
        self._waiting_states = []
