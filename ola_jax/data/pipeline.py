"""The training input: records of several sources, mixed, shuffled, packed into batches without end."""

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
from ola_jax.data.failures import kind_of
from ola_jax.data.isolation import ClosedError, IsolatedDecoder
from ola_jax.data.packing import Loaded, Packer, samples
from ola_jax.data.processor import Processor
from ola_jax.data.record_files import Malformed
from ola_jax.data.records import label
from ola_jax.data.skips import Skip, SkipLog
from ola_jax.data.sources import Source, check_sizes, load_tables
from ola_jax.errors import OlaError, describe, quote, shortened


@dataclasses.dataclass(frozen=True)
class RecordId:
    """Where a sample came from."""

    source: str  # the file of its records
    index: int  # place in that file
    id: str  # its own; "" if it has none


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatch:
    """A batch, and what the host knows of it: of this process's rows alone."""

    batch: OlaBatch  # numpy leaves
    records: tuple[tuple[RecordId, ...], ...]  # of each row
    fill: dict[str, float]  # share of the places in use: tokens, windows, patches, audio_chunks
    skipped: dict[str, int]  # records left out until this batch was filled, by kind of reason


class TrainIterator(Iterator[TrainBatch]):
    """Batches, with a state from which the very same batches follow.

    The state is plain JSON. It belongs to the arguments of `make_train_iterator`: other sources, seed,
    sizes or number of processes are refused.
    """

    def __init__(
        self,
        iterator: grain.DatasetIterator[TrainBatch],
        skips: SkipLog,
        identity: dict[str, Any],
        decoder: IsolatedDecoder | None = None,
    ):
        self._iterator, self._skips, self._identity = iterator, skips, identity
        self._decoder = decoder

    def __next__(self) -> TrainBatch:
        try:
            return next(self._iterator)
        except OlaError as error:  # grain adds lines of its own to the message
            raise OlaError(str(error).splitlines()[0]) from error

    @property
    def skips(self) -> list[Skip]:
        """The records left out so far, with reasons; those of batches prepared in advance included."""
        return self._skips.skips

    def get_state(self) -> dict[str, Any]:
        """The state after the last batch that was taken."""
        return {"identity": self._identity, "iterator": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on after that batch. Raises OlaError if the state is of other data or other settings."""
        if not isinstance(identity := state.get("identity"), dict) or "iterator" not in state:
            raise OlaError(f"data state: expected 'identity' and 'iterator', found {quote(state)}")
        for name, value in self._identity.items():
            if (saved := identity.get(name)) != value:
                raise OlaError(
                    f"data state: saved with {name} = {_short(saved)}, now {_short(value)}; use the saved "
                    "setting, or restart the data from its beginning"
                )
        self._iterator.set_state(state["iterator"])

    def close(self) -> None:
        """Stop preparing batches in advance, and end the processes that decode."""
        if self._decoder:
            self._decoder.close()  # first, so that no thread waits for it
        self._iterator.close()


def make_train_iterator(
    sources: Sequence[Source],
    processor: Processor,
    budget: Budget,
    batch_rows: int,
    seed: int,
    *,
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
    """Batches of `batch_rows` packed rows for this process, without end unless `epochs` is given.

    Sources without weights are shuffled together, anew in each epoch, and split between processes;
    with weights, which all sources have or none, each is so by itself, and they are mixed in these shares.
    With `epochs`, weighted sources end when the first has been used up, and the last batch is filled with
    empty rows.

    Args:
        sources: files of records, their media folders and mixing weights.
        processor: makes the samples.
        budget: sizes of one row.
        batch_rows: rows of the batches of this process.
        seed: of the shuffling, from 0 to 2**32 - 1.
        max_skipped: how many different bad records may be skipped before OlaError is raised. A source of
            bad records alone is an error in any case.
        epochs: times that each source is gone through.
        process_index: number of this process.
        process_count: processes that share the data.
        cache: keep every processed sample in memory (for small data).
        open_rows: rows that are filled at a time; default four batches.
        num_threads: threads that decode.
        prefetch: batches prepared in advance.
        isolate: decode media in processes, one for each thread, so that a file which takes longer than
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
    places = [[(number, index) for index in range(len(table))] for number, table in enumerate(tables)]
    if all(source.weight is None for source in sources):
        places, shares = [list(itertools.chain(*places))], [1.0]
    else:
        shares = weights
    decoder = None
    if isolate and processor.decode is in_process:
        decoder = IsolatedDecoder(processor.processor_config.media.decode_seconds)
        processor = dataclasses.replace(processor, decode=decoder)
    load = _Load(sources, tables, processor, {} if cache else None)
    datasets = []
    for group in places:
        if len(group) < process_count:
            name = sources[group[0][0]].records
            raise OlaError(f"{name}: {len(group)} records for {process_count} processes; too few")
        shuffled = grain.MapDataset.source(group).seed(seed).shuffle()
        datasets.append(shuffled[process_index::process_count].repeat(epochs).map(load))
    mixed = datasets[0] if len(datasets) == 1 else grain.MapDataset.mix(datasets, shares)
    # Ahead of the packer, as many samples as keep the threads busy.
    read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * num_threads)

    skips = SkipLog(max_skipped, [len(table) for table in tables])

    def to_batch(rows: Sequence[list[Loaded]]) -> TrainBatch:
        rows = [*rows, *[[]] * (batch_rows - len(rows))]
        packed = [samples(row) for row in rows]
        batch = assemble(packed, budget, processor.config)
        records = tuple(tuple(RecordId(s.source, s.index, s.sample.id) for s in row) for row in rows)
        return TrainBatch(batch, records, utilization(batch, packed), skips.counts())

    rows = Packer(mixed.to_iter_dataset(read), budget, open_rows, skips)
    batches = rows.batch(batch_rows, batch_fn=to_batch)
    if prefetch:
        batches = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=prefetch)
    identity = {
        "sources": [
            [pathlib.Path(source.records).name, len(table), weight, *_reading(source)]
            for source, table, weight in zip(sources, tables, weights, strict=True)
        ],
        "budget": dataclasses.asdict(budget),
        "batch_rows": batch_rows,
        "open_rows": open_rows,
        "seed": seed,
        "epochs": epochs,
        "process": [process_index, process_count],
    }
    return TrainIterator(iter(batches), skips, identity, decoder)


def _reading(source: Source) -> list[str]:
    """What of a source decides its samples, beside its file: nothing by default."""
    return ["marks_are_text"] if source.marks_are_text else []


def _short(value: Any) -> str:
    return shortened(repr(value), 120)


@dataclasses.dataclass(frozen=True, eq=False)
class _Load:
    """Makes the sample of one record, or says why there is none."""

    sources: Sequence[Source]
    tables: list[list[Any]]  # the records of each source
    processor: Processor
    cache: dict[tuple[int, int], Loaded] | None

    def __call__(self, place: tuple[int, int]) -> Loaded:
        if self.cache is not None and place in self.cache:
            return self.cache[place]
        loaded = self._load(*place)
        if self.cache is not None:
            self.cache[place] = loaded
        return loaded

    def _load(self, number: int, index: int) -> Loaded:
        source, record = self.sources[number], self.tables[number][index]
        loaded = functools.partial(Loaded, source.records, index, number=number)
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
            return loaded(None, kind_of(error), str(error))
        except Exception as error:  # of a processor of one's own
            return loaded(None, "malformed record", f"{label(record)}{describe(error)}")
