"""The indices of the sources of a run: read from files beside the records, or made at its start."""

import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import rich.progress

from ola_jax.data.identity import digest_records, source_index_path
from ola_jax.data.index import (
    SUFFIX,
    Failure,
    Index,
    RecordSize,
    concatenate,
    load_index,
    make_index,
    save_index,
)
from ola_jax.data.measure import describe_settings
from ola_jax.data.row_building import PlannedRecord, RowBuilder
from ola_jax.data.row_workers import RowWorkers
from ola_jax.data.tables import RecordTable
from ola_jax.errors import OlaError

QUIET_SECONDS = 3.0  # before progress is shown
_TOGETHER = 16  # records of one call
_COMPACT = 2**14  # sizes that are kept as objects

Table = RecordTable  # the records of a source


def index_sources(
    builder: RowBuilder,
    tables: Sequence[Table],
    *,
    workers: RowWorkers | None = None,
    threads: int = 1,
    folder: pathlib.Path | None = None,
) -> list[Index]:
    """The index of each source.

    It is one that an earlier call left in `folder`, or that in a file beside the records. Without, all
    records are measured, by the headers of their media where those suffice, in processes if there are
    `workers`, which `threads` keep busy. Raises OlaError if the file beside the records was made with other
    settings or of other records.
    """
    indices = []
    for number, (source, table) in enumerate(zip(builder.sources, tables, strict=True)):
        settings = describe_settings(builder.processor, marks_are_text=source.marks_are_text)
        records = digest_records(source.records, source.split)
        made_with = hashlib.sha256(json.dumps([settings, records]).encode()).hexdigest()[:12]
        kept = folder / f"{pathlib.Path(source.records).name}-{made_with}{SUFFIX}" if folder else None
        if kept and kept.exists():
            with contextlib.suppress(OlaError):  # damaged: it is made again
                indices.append(load_index(kept, settings=settings, records=records))
                continue
        if (path := source_index_path(source.records, source.split)).exists():
            indices.append(load_index(path, settings=settings, records=records))
            continue
        planned = (PlannedRecord(number, i, table[i]) for i in range(len(table)))
        measured = _measure(builder, planned, workers, threads)
        indices.append(_make_index(_show_progress(measured, len(table), source.records)))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_index(kept, indices[-1], settings=settings, records=records)
    return indices


def _make_index(sizes: Iterator[RecordSize | Failure]) -> Index:
    """The index of records of these sizes, few of which are objects at the same time."""
    parts = iter(lambda: list(itertools.islice(sizes, _COMPACT)), [])
    return concatenate([make_index(part) for part in parts])


def _measure(
    builder: RowBuilder,
    planned: Iterator[PlannedRecord],
    workers: RowWorkers | None,
    threads: int,
) -> Iterator[RecordSize | Failure]:
    """The sizes of records, which are read a few at a time: they may hold their media."""
    parts = iter(lambda: list(itertools.islice(planned, _TOGETHER)), [])
    if workers is None:
        for part in parts:
            yield from builder.measure(part)
        return
    pool = concurrent.futures.ThreadPoolExecutor(max(threads, 1))
    running: collections.deque[concurrent.futures.Future[list[RecordSize | Failure]]] = collections.deque()
    try:
        while True:
            for part in itertools.islice(parts, 2 * threads - len(running)):
                running.append(pool.submit(workers.measure, part))
            if not running:
                return
            yield from running.popleft().result()
    except BaseException:
        workers.close()  # so that no thread waits for a process
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _show_progress(
    measured: Iterator[RecordSize | Failure], count: int, name: str
) -> Iterator[RecordSize | Failure]:
    """The same, with a progress bar on the terminal once it takes long."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        bar: rich.progress.Progress | None = None
        for done, each in enumerate(measured, start=1):
            if bar is None and time.monotonic() > began + QUIET_SECONDS and sys.stderr.isatty():
                console = rich.console.Console(stderr=True)
                bar = stack.enter_context(rich.progress.Progress(console=console, transient=True))
                task = bar.add_task(f"measuring {name}", total=count)
            if bar is not None:
                bar.update(task, completed=done)
            yield each
