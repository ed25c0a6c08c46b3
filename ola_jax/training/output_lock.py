"""The lock of an output folder: one run at a time writes there."""

import contextlib
import datetime
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator

import filelock

from ola_jax.errors import OlaError

LOCK = ".run.lock"  # locked while a run writes; the system unlocks it when the process ends in any way
NOTE = ".run.json"  # who has locked it


@contextlib.contextmanager
def locked(output: pathlib.Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Creates the folder and keeps other runs out of it until the block ends.

    Raises OlaError if another run writes there, or the folder cannot be created or written.
    """
    lock = filelock.FileLock(output / LOCK, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise OlaError(
            f"{output}: another run writes there ({_holder(output / NOTE)}); wait until it ends, stop it, "
            "or choose another output"
        ) from None
    except OSError as error:
        raise OlaError(_unwritable(output, error)) from error
    try:
        _leave_note(output, report)
        yield
    finally:
        with contextlib.suppress(OSError):  # what the block raised matters more
            (output / NOTE).unlink(missing_ok=True)
        lock.release()


def _leave_note(output: pathlib.Path, report: Callable[[str], None]) -> None:
    note = output / NOTE
    if note.exists():
        report(f"{output}: the last run there ({_holder(note)}) was killed or crashed; its lock is released")
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    about = {"host": socket.gethostname(), "pid": os.getpid(), "started": now}
    try:
        note.write_text(json.dumps(about) + "\n", encoding="utf-8")
    except OSError as error:
        raise OlaError(_unwritable(output, error)) from error


def _holder(note: pathlib.Path) -> str:
    try:
        about = json.loads(note.read_text(encoding="utf-8"))
        return f"host {about['host']}, process {about['pid']}, since {about['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no name"


def _unwritable(output: pathlib.Path, error: OSError) -> str:
    return (
        f"output: {str(output)!r} cannot be written ({error.strerror or error}); expected a folder of yours"
    )
