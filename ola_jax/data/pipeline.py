"""The training input: rows planned from the sizes of records, decoded in processes, joined into batches.

The batch of a step depends on nothing but data, settings and step: not on the number of processes.
"""

import dataclasses
import math
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from ola_jax.batch import OlaBatch
from ola_jax.data.assembly import join_rows
from ola_jax.data.decoding import in_process
from ola_jax.data.index import Failure, Index
from ola_jax.data.indexing import Table, index_sources
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.packing import too_large
from ola_jax.data.plan import PLAN_VERSION, RowPlan
from ola_jax.data.processor import Processor
from ola_jax.data.records import message_prefix
from ola_jax.data.row_building import PlannedRecord, Row, RowBuilder
from ola_jax.data.row_workers import RowWorkers
from ola_jax.data.rows import misfit, utilization
from ola_jax.data.sample import Sample
from ola_jax.data.skips import Skip, SkipLog
from ola_jax.data.sources import Source, check_sizes, load_tables
from ola_jax.data.worker_processes import ClosedError
from ola_jax.errors import OlaError, quote, shortened
from ola_jax.row import Budget, row_fields

READ_AHEAD_BYTES = 4 * 2**30
_PADDING = Row({}, (), {}, ())  # a row without records


@dataclasses.dataclass(frozen=True)
class RecordId:
    """The record that a sample was made from."""

    source: str  # the file of its records
    index: int  # position in that file, from 0
    id: str  # its own id; "" if it has none


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatch:
    """A batch with facts about it, of the rows of this process only."""

    batch: OlaBatch  # numpy leaves
    record_ids: tuple[tuple[RecordId, ...], ...]  # of each row
    utilization: dict[str, float]  # share of the budget in use: tokens, windows, patches, audio_chunks
    skipped: dict[str, int]  # number of records skipped so far, by FailureKind


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """A batch, and the records that could not be used for it."""

    batch: OlaBatch
    record_ids: tuple[tuple[RecordId, ...], ...]
    utilization: dict[str, float]
    rows: tuple[tuple[tuple[tuple[int, int, str], ...], tuple[Skip, ...]], ...]  # used, and holes


class TrainIterator(Iterator[TrainBatch]):
    """Batches, with a state from which a run resumes with the same batches, bit for bit.

    The state is plain JSON: the number of batches taken, and the records skipped while decoding. It is valid
    for any number of processes, but only for the same sources, sizes and seed.
    """

    def __init__(
        self,
        begin: Callable[[int], grain.DatasetIterator[_Made]],
        *,
        skips: SkipLog,
        identity: dict[str, Any],
        workers: RowWorkers | None = None,
    ) -> None:
        self._begin, self._skips, self._identity, self._workers = begin, skips, identity, workers
        self._iterator: grain.DatasetIterator[_Made] | None = None
        self._step = 0
        self._reading = threading.Lock()
        self._closed = False

    def __next__(self) -> TrainBatch:
        with self._reading:
            if self._closed:
                raise ClosedError("the training data was closed")
            if self._iterator is None:
                self._iterator = self._begin(self._step)
            try:
                made = next(self._iterator)
            except OlaError as error:  # Grain appends lines to the message
                raise OlaError(str(error).splitlines()[0]) from error
        for used, holes in made.rows:
            for skip in holes:
                self._skips.add(skip)
            for source, _, _ in used:
                self._skips.used(source)
        self._step += 1
        return TrainBatch(made.batch, made.record_ids, made.utilization, self._skips.counts())

    @property
    def identity(self) -> dict[str, Any]:
        """What batches depend on beside the step, as JSON values."""
        return self._identity

    @property
    def skips(self) -> list[Skip]:
        """The records skipped so far, with reasons: known from the index, or found in batches taken."""
        return self._skips.skips

    def get_state(self) -> dict[str, Any]:
        """Returns the state after the last batch."""
        return {"identity": self._identity, "step": self._step, "skips": self._skips.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes after that batch. Raises OlaError if the state belongs to other data or settings."""
        if "iterator" in state:
            raise OlaError(
                "data state: saved by an earlier version of ola_jax, whose batches were others; start the "
                "data from the beginning"
            )
        identity, step, skips = (state.get(name) for name in ("identity", "step", "skips"))
        if not isinstance(identity, dict) or type(step) is not int or not isinstance(skips, list):
            expected = "a value of get_state(), with 'identity', 'step' and 'skips'"
            raise OlaError(f"data state: expected {expected}; found {quote(state)}")
        for name, value in self._identity.items():
            if (saved := identity.get(name)) != value:
                raise OlaError(
                    f"data state: saved with {name} = {_short(saved)}, now {_short(value)}; use the saved "
                    "setting, or start the data from the beginning"
                )
        with self._reading:
            self._skips.set_state(skips)
            self._close_iterator()
            self._step = step

    def close(self) -> None:
        """Stops preparing batches in advance, and ends the processes that decode.

        A thread that waits for a batch gets it, or an OlaError.
        """
        self._closed = True
        if self._workers:
            self._workers.close()  # first, so that no thread waits for it
        with self._reading:  # Grain would leave a thread that is waiting for a batch to wait for ever
            self._close_iterator()

    def _close_iterator(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None


def unite_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state of a run from those of its processes, for any number of processes."""
    first = states[0]
    for state in states[1:]:
        if any(state.get(name) != first.get(name) for name in ("identity", "step")):
            raise OlaError("data state: its processes were not at the same step of the same data")
    found = [skip for state in states for skip in state.get("skips", ())]
    skips = {(skip.get("number"), skip.get("index")): skip for skip in found}
    return first | ({"skips": list(skips.values())} if "skips" in first else {})


def make_train_iterator(
    sources: Sequence[Source],
    processor: Processor,
    budget: Budget,
    *,
    batch_rows: int,
    seed: int,
    max_skipped: int = 0,
    max_bad_fraction: float = 0.0,
    epochs: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    cache: bool = False,
    workers: int = 4,
    prefetch: int = 2,
    read_ahead_bytes: int = READ_AHEAD_BYTES,
    index_folder: pathlib.Path | None = None,
) -> TrainIterator:
    """Builds an iterator over batches of packed rows for this process, without end unless `epochs` is given.

    Rows are planned from the sizes of records: from the index beside them (RECORDS.index), or else from one
    made now, by the headers of media where those suffice. Records that fail then are skipped at once; those
    that fail later leave a hole in their row, and are counted when it is reached.

    Sources without weights are shuffled together, differently in each epoch. With weights, which all sources
    have or none, each source is shuffled by itself, and they are mixed in these shares. With `epochs`,
    weighted sources end when the first is exhausted, and the last batch is padded with empty rows.

    Args:
        sources: files of records, their media folders and mixing weights.
        processor: turns records into samples.
        budget: sizes of one row.
        batch_rows: rows of a batch, over all processes.
        seed: of the shuffling, from 0 to 2**32 - 1.
        max_skipped: the number of different bad records that may be skipped before OlaError is raised. A
            source of bad records only is always an error.
        max_bad_fraction: share of all records that may be skipped, if that is more than `max_skipped`.
        epochs: passes over each source.
        process_index: number of this process, which takes a block of the rows of each batch.
        process_count: processes that share the rows.
        cache: keep every processed sample in memory (for small data).
        workers: processes that decode and assemble rows, and end a record that takes longer than
            `MediaLimits.decode_seconds` or crashes its decoder, which makes it a bad record; 0: none, this
            process decodes.
        prefetch: batches prepared in advance.
        read_ahead_bytes: memory for rows and batches prepared in advance; at least one of each is.
        index_folder: keeps an index that is made now, so that the run is resumed with the same one.
    """
    check_sizes(
        budget,
        batch_rows=batch_rows,
        seed=seed,
        max_skipped=max_skipped,
        epochs=epochs,
        process_index=process_index,
        process_count=process_count,
        workers=workers,
        prefetch=prefetch,
        read_ahead_bytes=read_ahead_bytes,
    )
    if batch_rows % process_count:
        raise OlaError(f"batch_rows is {batch_rows}; expected a multiple of the {process_count} processes")
    tables = load_tables(sources)
    if isinstance(processor.decode, IsolatedDecoder) and workers:  # the workers are isolated themselves
        processor = dataclasses.replace(processor, decode=in_process)
    # Records in memory are sent to the workers; they read the others themselves.
    read_there = tuple(None if isinstance(table, list) else table for table in tables)
    builder = RowBuilder(processor, tuple(sources), budget, read_there)
    row_workers = None
    if workers:
        row_workers = RowWorkers(builder, processor.processor_config.media.decode_seconds)
    try:
        indices = index_sources(builder, tables, workers=row_workers, threads=workers, folder=index_folder)
        skips = SkipLog(max_skipped, [len(table) for table in tables], max_bad_fraction=max_bad_fraction)
        usable = []
        for number, (source, table, index) in enumerate(zip(sources, tables, indices, strict=True)):
            bad = _bad_records(index, table, budget)
            skips.add_known([Skip(source.records, i, f.kind, f.reason, number) for i, f in bad.items()])
            good = np.ones(len(index), bool)
            good[list(bad)] = False
            usable.append(np.flatnonzero(good))
        weights = [source.weight for source in sources if source.weight is not None]
        plan = RowPlan(indices, usable, budget, seed=seed, weights=weights or None, epochs=epochs)
        rows = _Rows(plan, tables, indices, batch_rows, process_index, process_count, epochs is not None)
    except BaseException:
        if row_workers:
            row_workers.close()
        raise
    if row_workers and not cache:
        build = row_workers.build
    else:
        build = _BuildHere(builder, row_workers, {} if cache else None)
    share = batch_rows // process_count

    def to_batch(made: Sequence[Row]) -> _Made:
        made = [*made, *[_PADDING] * (share - len(made))]
        ids = [tuple(RecordId(sources[s].records, i, name) for s, i, name in row.records) for row in made]
        holes = [
            tuple(Skip(sources[s].records, i, f.kind, f.reason, s) for s, i, f in row.holes) for row in made
        ]
        return _Made(
            batch=join_rows([row.fields for row in made], budget, processor.config),
            record_ids=tuple(ids),
            utilization=utilization([row.use for row in made], budget),
            rows=tuple((row.records, hole) for row, hole in zip(made, holes, strict=True)),
        )

    ahead = _read_ahead(processor, budget, share, workers, prefetch, read_ahead_bytes)

    def begin(step: int) -> grain.DatasetIterator[_Made]:
        """The batches from the one after `step`."""
        planned = grain.MapDataset.source(dataclasses.replace(rows, start=step * share))
        built = planned.map(lambda each: build(each) if each else _PADDING)
        read = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=ahead.rows)
        batches = built.to_iter_dataset(read).batch(share, batch_fn=to_batch)
        if ahead.batches:
            batches = grain.experimental.ThreadPrefetchIterDataset(
                batches, prefetch_buffer_size=ahead.batches
            )
        return iter(batches)

    identity = {
        "plan": PLAN_VERSION,
        "sources": [
            [pathlib.Path(source.records).name, len(table), source.weight, *_options(source)]
            for source, table in zip(sources, tables, strict=True)
        ],
        "budget": dataclasses.asdict(budget),
        "batch_rows": batch_rows,
        "seed": seed,
        "epochs": epochs,
        "sizes of records": [index.digest() for index in indices],
    }
    return TrainIterator(begin, skips=skips, identity=identity, workers=row_workers)


@dataclasses.dataclass(frozen=True)
class _ReadAhead:
    rows: int
    batches: int


def _read_ahead(
    processor: Processor, budget: Budget, rows: int, workers: int, prefetch: int, limit: int
) -> _ReadAhead:
    """Rows and batches prepared in advance, in a memory of `limit` bytes: at least one row, and one batch."""
    fields = row_fields(processor.config, budget).values()
    row_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields)
    batches = min(prefetch, max(limit // (2 * rows * row_bytes), 1))
    return _ReadAhead(max(min(2 * workers + rows, limit // (2 * row_bytes)), 1), batches)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """The planned rows of this process, from `start`; empty ones where the last batch has no more."""

    plan: RowPlan
    tables: Sequence[Table]
    indices: Sequence[Index]
    batch_rows: int
    part: int  # of the rows of each batch, for this process
    parts: int
    ends: bool
    start: int = 0

    def __len__(self) -> int:
        if not self.ends:
            return sys.maxsize
        batches = math.ceil(self.plan.count_rows() / self.batch_rows)
        return max(batches * (self.batch_rows // self.parts) - self.start, 0)

    def __getitem__(self, number: int) -> list[PlannedRecord]:
        share = self.batch_rows // self.parts
        batch, row = divmod(self.start + number, share)
        try:
            keys = self.plan.row(batch * self.batch_rows + self.part * share + row)
        except IndexError:
            return []  # None would be left out by Grain
        planned = []
        for source, index in keys:
            table = self.tables[source]
            record = table[index] if isinstance(table, list) else None
            planned.append(PlannedRecord(source, index, record, self.indices[source].size(index)))
        return planned


@dataclasses.dataclass(frozen=True, eq=False)
class _BuildHere:
    """Builds rows in this process; samples are kept if there is a cache for them."""

    builder: RowBuilder
    workers: RowWorkers | None  # that make samples; None: this process
    cache: dict[tuple[int, int], Sample] | None  # by source and record

    def __call__(self, planned: Sequence[PlannedRecord]) -> Row:
        return self.builder.assemble(planned, [self._sample(each) for each in planned])

    def _sample(self, planned: PlannedRecord) -> Sample | Failure:
        key = planned.source, planned.index
        if self.cache is not None and key in self.cache:
            return self.cache[key]
        made = self.workers.sample(planned) if self.workers else self.builder.sample(planned)
        if self.cache is not None and isinstance(made, Sample):
            self.cache[key] = made
        return made


def _bad_records(index: Index, table: Table, budget: Budget) -> dict[int, Failure]:
    """The records that failed when they were measured, and those too large for a row."""
    bad = dict(index.failures)
    for record in too_large(index, budget).tolist():
        reason = misfit([index.size(record)], budget)
        bad[record] = Failure("too large", f"{message_prefix(table[record])}{reason}")
    return dict(sorted(bad.items()))


def _options(source: Source) -> list[str]:
    """The settings of a source that decide its samples and are not the default."""
    options = [name for name in ("marks_are_text", "bgr") if getattr(source, name)]
    return options if source.split == "train" else [*options, source.split]


def _short(value: object) -> str:
    return shortened(repr(value), 120)
