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
from ola_jax.data.worker_processes import START_SECONDS, ClosedError, ProcessPool
from ola_jax.errors import OlaError, describe

logger = logging.getLogger(__name__)

Measured = tuple[RecordSize | Failure, Sample | None]


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

    def measure(self, planned: Sequence[PlannedRecord], keep: bool = False) -> list[Measured]:
        """The sizes of records, or why they fail; with `keep` also their samples."""
        measured: list[Measured] = []
        while len(measured) < len(planned):
            rest = planned[len(measured) :]
            at = lambda: len(measured)
            result = self._call(RowBuilder.measure, (rest, keep), planned, progress=measured.append, at=at)
            if isinstance(result, _Ended):
                measured.append((result.failure, None))
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
        worker, begun = self._pool.take(), False

        def note(value: Any) -> None:
            nonlocal begun
            begun = True
            progress(value)

        try:
            succeeded, value = worker.call(
                self._seconds,
                function,
                arguments,
                progress=note,
                waiting=lambda seconds: self._report_waiting(planned, at(), seconds),
            )
        except TimeoutError:
            worker.kill()
            if worker.calls == 0:
                raise OlaError(
                    f"the process that builds rows did not start within {START_SECONDS:g} seconds; reduce "
                    "the load of the machine"
                ) from None
            reason = (
                f"decoding took more than {self._seconds:g} seconds (decode_seconds) and was ended; shorten "
                "or convert the file, or raise the limit"
            )
            return self._ended("timed out", reason, planned, at())
        except (EOFError, OSError) as error:
            how = worker.kill(wait=1.0)
            if self._pool.closed:
                raise ClosedError("reading was closed") from error
            if worker.calls == 0:
                raise OlaError(f"the process that builds rows did not start ({how})") from error
            if worker.calls > 1 and not begun and isinstance(error, ConnectionError):  # it died before
                return self._call(function, arguments, planned, progress=progress, at=at)
            reason = f"the decoder crashed ({how}); convert the file or remove it"
            return self._ended("decoder crashed", reason, planned, at())
        except BaseException:  # an interrupt, or a pickling error: the process may still be busy
            worker.kill()
            raise
        finally:
            self._pool.give_back(worker)
        if not succeeded:
            raise value
        return value

    def _ended(self, kind: Any, reason: str, planned: Sequence[PlannedRecord], at: int | None) -> "_Ended":
        if at is None or at >= len(planned):
            raise OlaError(f"the process that builds rows failed at none of its records: {reason}")
        record = planned[at].record
        named = f"{message_prefix(record)}{self._name(planned[at])}: {reason}"
        return _Ended(at, Failure(kind, named, record_kind(record)))

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
