"""The training input: records of several sources, mixed, shuffled and packed into batches without end."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import grain

from ola_jax.batch import Budget, OlaBatch
from ola_jax.data.assembly import assemble, utilization
from ola_jax.data.decoding import in_process
from ola_jax.data.failures import failure_kind
from ola_jax.data.isolation import ClosedError, IsolatedDecoder
from ola_jax.data.packing import LoadedRecord, Packer, samples
from ola_jax.data.processor import Processor
from ola_jax.data.record_files import Malformed
from ola_jax.data.records import message_prefix
from ola_jax.data.skips import Skip, SkipLog
from ola_jax.data.sources import Source, check_sizes, load_tables
from ola_jax.data.tables import RecordTable
from ola_jax.errors import OlaError, describe, quote, shortened


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


class TrainIterator(Iterator[TrainBatch]):
    """Batches, with a state from which a run resumes with the same batches, bit for bit.

    The state is plain JSON. It is valid only for the same arguments of `make_train_iterator`: sources, seed,
    sizes, number of processes.
    """

    def __init__(
        self,
        iterator: grain.DatasetIterator[TrainBatch],
        *,
        skips: SkipLog,
        identity: dict[str, Any],
        decoder: IsolatedDecoder | None = None,
    ) -> None:
        self._iterator, self._skips, self._identity = iterator, skips, identity
        self._decoder = decoder

    def __next__(self) -> TrainBatch:
        try:
            return next(self._iterator)
        except OlaError as error:  # Grain appends lines to the message
            raise OlaError(str(error).splitlines()[0]) from error

    @property
    def skips(self) -> list[Skip]:
        """The records skipped so far, with reasons, including those of batches prepared in advance."""
        return self._skips.skips

    def get_state(self) -> dict[str, Any]:
        """Returns the state after the last batch."""
        return {"identity": self._identity, "iterator": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes after that batch. Raises OlaError if the state belongs to other data or settings."""
        if not isinstance(identity := state.get("identity"), dict) or "iterator" not in state:
            expected = "a value of get_state(), with 'identity' and 'iterator'"
            raise OlaError(f"data state: expected {expected}; found {quote(state)}")
        for name, value in self._identity.items():
            if (saved := identity.get(name)) != value:
                raise OlaError(
                    f"data state: saved with {name} = {_short(saved)}, now {_short(value)}; use the saved "
                    "setting, or start the data from the beginning"
                )
        self._iterator.set_state(state["iterator"])

    def close(self) -> None:
        """Stops preparing batches in advance, and ends the processes that decode."""
        if self._decoder:
            self._decoder.close()  # first, so that no thread waits for it
        self._iterator.close()


def make_train_iterator(
    sources: Sequence[Source],
    processor: Processor,
    budget: Budget,
    *,
    batch_rows: int,
    seed: int,
    max_skipped: int = 0,
    epochs: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    cache: bool = False,
    open_rows: int | None = None,
    num_threads: int = 4,
    prefetch: int = 2,
    isolate: bool = True,
) -> TrainIterator:
    """Builds an iterator over batches of packed rows for this process, without end unless `epochs` is given.

    Sources without weights are shuffled together, differently in each epoch, and split between processes.
    With weights, which all sources have or none, each source is shuffled and split by itself, and they are
    mixed in these shares. With `epochs`, weighted sources end when the first is exhausted, and the last batch
    is padded with empty rows.

    Args:
        sources: files of records, their media folders and mixing weights.
        processor: turns records into samples.
        budget: sizes of one row.
        batch_rows: rows of the batches of this process.
        seed: of the shuffling, from 0 to 2**32 - 1.
        max_skipped: the number of different bad records that may be skipped before OlaError is raised. A
            source of bad records only is always an error.
        epochs: passes over each source.
        process_index: number of this process.
        process_count: processes that share the data.
        cache: keep every processed sample in memory (for small data).
        open_rows: rows that are packed at the same time; four batches by default.
        num_threads: threads that decode.
        prefetch: batches prepared in advance.
        isolate: decode media in processes, one for each thread, so that a file that takes longer than
            `MediaLimits.decode_seconds`, or crashes its decoder, is a bad record.
    """
    check_sizes(
        budget,
        batch_rows=batch_rows,
        seed=seed,
        max_skipped=max_skipped,
        epochs=epochs,
        process_index=process_index,
        process_count=process_count,
        open_rows=open_rows,
        num_threads=num_threads,
        prefetch=prefetch,
    )
    open_rows = open_rows or 4 * batch_rows
    tables = load_tables(sources)
    weights = [len(t) if s.weight is None else s.weight for s, t in zip(sources, tables, strict=True)]
    groups = [[(number, index) for index in range(len(table))] for number, table in enumerate(tables)]
    if all(source.weight is None for source in sources):
        groups, shares = [list(itertools.chain(*groups))], [1.0]
    else:
        shares = weights
    decoder = None
    if isolate and processor.decode is in_process:
        decoder = IsolatedDecoder(processor.processor_config.media.decode_seconds)
        processor = dataclasses.replace(processor, decode=decoder)
    load = _Load(sources, tables, processor, {} if cache else None)
    datasets = []
    for group in groups:
        if len(group) < process_count:
            name = sources[group[0][0]].records
            raise OlaError(
                f"{name}: {len(group)} records for {process_count} processes; expected at least one for each"
            )
        shuffled = grain.MapDataset.source(group).seed(seed).shuffle()
        datasets.append(shuffled[process_index::process_count].repeat(epochs).map(load))
    mixed = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, shares)
    # Enough samples ahead of the packer to keep the threads busy.
    read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * num_threads)

    skips = SkipLog(max_skipped, [len(table) for table in tables])

    def to_batch(rows: Sequence[list[LoadedRecord]]) -> TrainBatch:
        rows = [*rows, *[[]] * (batch_rows - len(rows))]
        packed = [samples(row) for row in rows]
        batch = assemble(packed, budget, processor.config)
        return TrainBatch(batch, tuple(map(_record_ids, rows)), utilization(batch, packed), skips.counts())

    rows = Packer(mixed.to_iter_dataset(read), budget=budget, open_rows=open_rows, skips=skips)
    batches = rows.batch(batch_rows, batch_fn=to_batch)
    if prefetch:
        batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch)
    identity = {
        "sources": [
            [pathlib.Path(source.records).name, len(table), weight, *_options(source)]
            for source, table, weight in zip(sources, tables, weights, strict=True)
        ],
        "budget": dataclasses.asdict(budget),
        "batch_rows": batch_rows,
        "open_rows": open_rows,
        "seed": seed,
        "epochs": epochs,
        "process": [process_index, process_count],
    }
    return TrainIterator(iter(batches), skips=skips, identity=identity, decoder=decoder)


def _record_ids(row: Sequence[LoadedRecord]) -> tuple[RecordId, ...]:
    return tuple(RecordId(x.source, x.index, x.sample.id) for x in row if x.sample is not None)


def _options(source: Source) -> list[str]:
    """The settings of a source that decide its samples and are not the default."""
    return ["marks_are_text"] if source.marks_are_text else []


def _short(value: object) -> str:
    return shortened(repr(value), 120)


@dataclasses.dataclass(frozen=True, eq=False)
class _Load:
    """Loads the sample of one record, or the reason why there is none."""

    sources: Sequence[Source]
    tables: Sequence[RecordTable]  # the records of each source
    processor: Processor
    cache: dict[tuple[int, int], LoadedRecord] | None

    def __call__(self, key: tuple[int, int]) -> LoadedRecord:
        if self.cache is not None and key in self.cache:
            return self.cache[key]
        loaded = self._load(*key)
        if self.cache is not None:
            self.cache[key] = loaded
        return loaded

    def _load(self, number: int, index: int) -> LoadedRecord:
        source, record = self.sources[number], self.tables[number][index]
        loaded = functools.partial(LoadedRecord, source.records, index, number=number)
        if isinstance(record, Malformed):
            return loaded(None, "malformed record", record.reason)
        try:
            sample = self.processor.sample(
                record, source.root, training=True, marks_are_text=source.marks_are_text
            )
            return loaded(sample)
        except ClosedError:  # nothing is wrong with the record
            raise
        except OlaError as error:
            return loaded(None, failure_kind(error), str(error))
        except Exception as error:  # of a user's own processor
            return loaded(None, "malformed record", f"{message_prefix(record)}{describe(error)}")
