"""Checking a source: the size of every record, and the reason of each that cannot be used."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from filelock import FileLock, Timeout

from ola_jax.data.blocks import Block, OnProgress, replacing, run_blocks, split_into_blocks, sweep
from ola_jax.data.decoding import in_process
from ola_jax.data.identity import digest_records, source_index_path
from ola_jax.data.index import Failure, Index, concatenate, load_index, make_index, save_index
from ola_jax.data.measure import describe_settings, measure_or_fail
from ola_jax.data.processor import Processor
from ola_jax.data.sources import Source, open_table
from ola_jax.data.tables import RecordTable
from ola_jax.errors import OlaError

BLOCKS = 4096  # of a large source, at most
BLOCK_RECORDS = 256  # of a smaller one
GROUP = 16  # blocks that are measured by one process that decodes, at most: it takes a second to start


@dataclasses.dataclass(frozen=True)
class CheckedSource:
    """A source whose records are all measured."""

    source: Source
    index: Index
    index_path: pathlib.Path
    bad_path: pathlib.Path | None  # the file of bad records; None if there are none


def check_source(
    source: Source,
    processor: Processor,
    *,
    processes: int = 1,
    progress: OnProgress = lambda done, total: None,
) -> CheckedSource:
    """Decodes and measures every record, and writes the index that training uses.

    Bad records are listed in a file of JSON Lines beside it. Each process handles a block of records, and no
    media are kept; what was done before an interruption is not done again. Raises OlaError for a source that
    cannot be read.
    """
    table = open_table(source)
    path = source_index_path(source.records, source.split)
    settings = describe_settings(processor, marks_are_text=source.marks_are_text)
    digest = digest_records(source.records, source.split)
    parts = path.with_name(f"{path.name}.parts")
    blocks = split_into_blocks(len(table), min(BLOCKS, -(-len(table) // BLOCK_RECORDS)))
    # A process that decodes cannot be sent to other processes: then each block starts its own.
    with locked(parts), isolated(processor) if processes == 1 else contextlib.nullcontext(processor) as own:
        sweep(parts)
        saved = {block.number: load_part(parts, block, settings, digest) for block in blocks}
        missing = [block for block in blocks if saved[block.number] is None]
        function = functools.partial(
            _check_blocks,
            blocks=blocks,
            source=source,
            table=table,
            processor=own,
            parts=parts,
            digest=digest,
        )
        done = len(table) - sum(block.stop - block.start for block in missing)
        groups = _group(missing, min(GROUP, len(missing) // (8 * processes)))
        for _ in run_blocks(function, groups, processes=processes, done=done, progress=progress):
            pass
        index = concatenate([load_index(part_path(parts, block)) for block in blocks])
        save_index(path, index, settings=settings, records=digest)
        bad_path = path.with_name(f"{path.name.removesuffix('.index')}.bad.jsonl")
        write_failures(bad_path, index.failures)
        index = load_index(path)
        shutil.rmtree(parts)
    return CheckedSource(source, index, path, bad_path if index.failures else None)


def measure_block(table: RecordTable, block: Block, processor: Processor, source: Source) -> Index:
    """The index of a block of records."""
    with isolated(processor) as measuring:
        return make_index(
            measure_or_fail(measuring, table[index], source.root, marks_are_text=source.marks_are_text)
            for index in range(block.start, block.stop)
        )


@contextlib.contextmanager
def isolated(processor: Processor) -> Iterator[Processor]:
    """The processor, decoding in a process that can be ended; the same one if it does so already."""
    if processor.decode is not in_process:
        yield processor
        return
    with processor.isolated() as new:
        yield new


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Creates a folder of unfinished work, in which no other process may work until the context ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OlaError(f"{folder}: another process is at work there; wait for it") from error
    except OSError as error:
        raise OlaError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def part_path(folder: pathlib.Path, block: Block) -> pathlib.Path:
    """The file of the index of a block."""
    return folder / f"{block.start:09d}-{block.stop:09d}.part"


def load_part(folder: pathlib.Path, block: Block, settings: Mapping[str, Any], digest: str) -> Index | None:
    """The index of a block that an earlier run measured with the same settings; None if there is none."""
    if not (path := part_path(folder, block)).exists():
        return None
    try:
        return load_index(path, settings=settings, records=digest)
    except OlaError:  # of other settings, or of records that have changed
        return None


def write_failures(path: pathlib.Path, failures: Mapping[int, Failure]) -> None:
    """Writes the bad records as JSON Lines, or removes the file of an earlier check if there are none."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("w") as file:
        for index, failure in sorted(failures.items()):
            line = {"index": index, "kind": failure.kind, "record": failure.record, "reason": failure.reason}
            file.write(json.dumps(line) + "\n")


def _group(blocks: Sequence[Block], most: int) -> list[Block]:
    """Blocks joined where they follow each other, up to this many."""
    groups: list[Block] = []
    joined = 0
    for block in blocks:
        if groups and groups[-1].stop == block.start and joined < most:
            groups[-1] = dataclasses.replace(groups[-1], stop=block.stop)
            joined += 1
        else:
            groups.append(block)
            joined = 1
    return groups


def _check_blocks(
    group: Block,
    *,
    blocks: Sequence[Block],
    source: Source,
    table: RecordTable,
    processor: Processor,
    parts: pathlib.Path,
    digest: str,
) -> None:
    """Measures the blocks of a group, each into a file of its own."""
    settings = describe_settings(processor, marks_are_text=source.marks_are_text)
    with isolated(processor) as own:
        for block in blocks:
            if group.start <= block.start and block.stop <= group.stop:
                index = measure_block(table, block, own, source)
                save_index(part_path(parts, block), index, settings=settings, records=digest)
