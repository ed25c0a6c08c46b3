"""Work on blocks of records by many processes: each block has a result in a file, so work can be resumed."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ola_jax.errors import OlaError

Result = TypeVar("Result")
OnProgress = Callable[[int, int], None]  # records that are done, and all of them

TEMPORARY = ".tmp-"  # in the name of a file that is being written
_WATCH_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Block:
    """Records that one process handles, one after the other."""

    number: int
    start: int  # the first record
    stop: int


def split_into_blocks(count: int, blocks: int) -> list[Block]:
    """About equal blocks of `count` records, in order; none is empty unless there are no records."""
    blocks = max(min(blocks, count), 1)
    edges = [count * number // blocks for number in range(blocks + 1)]
    return [Block(number, start, stop) for number, (start, stop) in enumerate(itertools.pairwise(edges))]


def run_blocks(
    function: Callable[[Block], Result],
    blocks: Sequence[Block],
    *,
    processes: int,
    done: int = 0,
    progress: OnProgress = lambda done, total: None,
) -> Iterator[tuple[Block, Result]]:
    """Calls the function with each block, in this many processes, and yields results as they are ready.

    `function` is pickled. `done` is the number of records done before. Processes end with this one, also if
    it is killed. Raises OlaError if one of them is killed.
    """
    total = done + sum(block.stop - block.start for block in blocks)
    progress(done, total)
    if processes == 1:
        for block in blocks:
            yield block, function(block)
            progress(done := done + block.stop - block.start, total)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, max(len(blocks), 1)), multiprocessing.get_context("spawn"), _start, (os.getpid(),)
    )
    waiting, running = iter(blocks), dict[concurrent.futures.Future[Result], Block]()
    try:
        while True:
            for block in itertools.islice(waiting, 2 * processes - len(running)):
                running[pool.submit(function, block)] = block
            if not running:
                break
            ready, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ready:
                block = running.pop(future)
                yield block, future.result()
                progress(done := done + block.stop - block.start, total)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OlaError(
            "a process that reads records was killed (is memory short?); use fewer (processes), and run the "
            "same command again: what is done is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which it replaces when the block succeeds, synced to disk."""
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OlaError(
            f"{path}: cannot be written ({error.strerror}); nothing is lost: run it again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: pathlib.Path) -> None:
    """Removes the files that a process which was killed left half-written; no other may write meanwhile."""
    for file in folder.glob(f"*{TEMPORARY}*"):
        file.unlink(missing_ok=True)


def _start(parent: int) -> None:
    """Prepares a process: Ctrl-C is meant for its parent, without which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
