"""Rows from processes: each record has a time limit, and one that hangs or crashes its process is a hole."""

import dataclasses
import logging
import pickle
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ola_jax.data.index import Failure, RecordSize
from ola_jax.data.measure import record_kind
from ola_jax.data.media import short
from ola_jax.data.records import message_prefix
from ola_jax.data.row_building import PlannedRecord, Row, RowBuilder, build_compact
from ola_jax.data.sample import Sample
from ola_jax.data.worker_processes import EndedError, ProcessPool
from ola_jax.errors import OlaError, describe

logger = logging.getLogger(__name__)


class RowWorkers:
    """Builds rows in processes, for any number of threads, each of which waits for its own row.

    There are at most as many processes as concurrent calls. They import no JAX, start when needed, are
    reused, and end with `close`, with this object, or with the process that created it. `seconds` is the time
    limit of one record.
    """

    def __init__(self, builder: RowBuilder, seconds: float) -> None:
        try:
            setup = pickle.dumps(builder, protocol=5)
        except Exception as error:  # anything that a user's processor may hold
            raise OlaError(
                f"the processor cannot be sent to other processes ({describe(error)}); use no workers, or a "
                "processor of a class in a module"
            ) from error
        self._sources, self._seconds = builder.sources, seconds
        self._pool = ProcessPool(setup)
        self._end = weakref.finalize(self, ProcessPool.close, self._pool)

    def build(self, planned: Sequence[PlannedRecord]) -> Row:
        """The row of these records. Raises OlaError if no process can build it, whatever the records."""
        at: list[int] = []  # the records that were begun
        while True:
            begun = lambda: at[-1] if at else None
            result = self._call(build_compact, (planned,), planned, progress=at.append, at=begun)
            if not isinstance(result, _Ended):
                return result
            hole = dataclasses.replace(planned[result.at], record=result.failure)
            planned = [*planned[: result.at], hole, *planned[result.at + 1 :]]
            at.clear()

    def sample(self, planned: PlannedRecord) -> Sample | Failure:
        """The sample of a record, or why there is none."""
        result = self._call(
            RowBuilder.sample, (planned,), [planned], progress=lambda value: None, at=lambda: 0
        )
        return result.failure if isinstance(result, _Ended) else result

    def measure(self, planned: Sequence[PlannedRecord]) -> list[RecordSize | Failure]:
        """The sizes of records, or why they fail."""
        measured: list[RecordSize | Failure] = []
        while len(measured) < len(planned):
            rest = planned[len(measured) :]
            at = lambda: len(measured)
            result = self._call(RowBuilder.measure, (rest,), planned, progress=measured.append, at=at)
            if isinstance(result, _Ended):
                measured.append(result.failure)
        return measured

    def close(self) -> None:
        """Ends all processes, including those that are decoding."""
        self._end()

    def _call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        planned: Sequence[PlannedRecord],
        *,
        progress: Callable[[Any], None],
        at: Callable[[], int | None],
    ) -> Any:
        """The function's result, or _Ended with the record at which its process was ended or died.

        `at` gives the number of the record that is being decoded.
        """
        waiting = lambda seconds: self._report_waiting(planned, at(), seconds)
        try:
            return self._pool.call(self._seconds, function, arguments, progress=progress, waiting=waiting)
        except EndedError as error:
            return self._ended(error, planned, at())

    def _ended(self, error: EndedError, planned: Sequence[PlannedRecord], at: int | None) -> "_Ended":
        if at is None or at >= len(planned):
            raise OlaError(f"the process that builds rows failed at none of its records: {error.reason}")
        record = planned[at].record
        named = f"{message_prefix(record)}{self._name(planned[at])}: {error.reason}"
        return _Ended(at, Failure(error.kind, named, record_kind(record)))

    def _report_waiting(self, planned: Sequence[PlannedRecord], at: int | None, seconds: float) -> None:
        if at is None or at >= len(planned):
            logger.warning("waiting for %.0f seconds for a process that builds a row", seconds)
            return
        each = planned[at]
        where = f"{short(self._sources[each.source].records)}[{each.index}]"
        logger.warning("waiting for %.0f seconds for %s: %s", seconds, where, self._name(each))

    def _name(self, planned: PlannedRecord) -> str:
        """The media of a record, for messages."""
        record = planned.record
        if record is None:
            return f"record {planned.index} of {short(self._sources[planned.source].records)}"
        keys = ("image", "video", "audio", "audio_q")
        found = [record[key] for key in keys if record.get(key)] if isinstance(record, dict) else []
        return ", ".join(map(short, found)) or "its text"


@dataclasses.dataclass(frozen=True)
class _Ended:
    """The record at which a process was ended or died."""

    at: int
    failure: Failure
