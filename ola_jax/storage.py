"""Replacing a directory in one step, and the storage failures that prevent it."""

import contextlib
import errno
import logging
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from ola_jax.errors import OlaError


@contextlib.contextmanager
def replace_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new directory beside `directory`, which it replaces when the block succeeds.

    Processes enter and leave together; the first creates the directory and moves it.
    """
    target = directory.absolute()
    if jax.process_index() != 0:
        _wait_for_all("build")
        yield target.with_name(f".{target.name}.partial")
        _wait_for_all("replaced")
        return
    build, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not target.exists():  # killed between the two renames below
            old.rename(target)
        for leftover in (build, old):  # from a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        build.mkdir()
    except OSError as error:
        raise OlaError(f"{directory}: cannot be written ({error.strerror})") from error
    try:
        _wait_for_all("build")
        with quiet_orbax():
            yield build
        _sync(build)
        if target.exists():
            target.rename(old)
        build.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        _wait_for_all("replaced")
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        remove_unfinished(build)
        if not isinstance(error, OlaError) and (reason := storage_failure(error, writing=True)):
            raise OlaError(
                f"{directory}: cannot be written ({reason}); nothing there was changed: make room for it, or "
                "choose another directory, and run the same command again"
            ) from error
        raise


def storage_failure(error: BaseException, writing: bool = False) -> str | None:
    """The reason why this machine cannot read or write now, in a few words: no memory, space or permission.

    None for any other error, of the data or of the program. A missing file is a failure of storage for a
    writer only.
    """
    for each in _causes(error):
        if isinstance(each, MemoryError):
            return "out of memory"
        number = each.errno if isinstance(each, OSError) else None
        if found := _OS_ERROR.search(str(each)):  # as tensorstore writes it
            number = int(found[1])
        if number and (writing or number not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)):
            return os.strerror(number)
        if found := _REFUSED.search(str(each)):
            return "out of memory" if found[0] == "RESOURCE_EXHAUSTED" else found[0].lower().replace("_", " ")
    return None


def describe_unreadable(path: pathlib.Path, failure: str) -> str:
    """A message about files that a storage failure keeps from being read, and that may not be damaged."""
    problem = f"{path}: cannot be read now ({failure}); nothing was changed"
    return f"{problem}: resolve this, and run the same command again"


_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
_REFUSED = re.compile(r"RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and all that it was raised from."""
    seen: list[BaseException] = []
    todo = [error]
    while todo:
        each = todo.pop(0)
        if each in seen:
            continue
        seen.append(each)
        yield each
        more = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        todo += [e for e in (*more, each.__cause__, each.__context__) if e is not None]


def remove_unfinished(directory: pathlib.Path, seconds: float = 10.0) -> None:
    """Removes the files of a failed save until none reappear: some of its threads may still be writing."""
    end, absent = time.monotonic() + seconds, 0
    while absent < 4 and time.monotonic() < end:
        absent = 0 if directory.exists() else absent + 1
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.05)


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Keeps Orbax from printing the errors that it also raises.

    Each thread of a failed save prints a traceback, and one more for each array that was not yet on the
    disk ("Event loop is closed"). After an error Orbax stays quiet, as its threads end later.
    """
    logger, hook = logging.getLogger("absl"), sys.unraisablehook

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "orbax" not in record.pathname

    def quiet_hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.addFilter(keep)
    sys.unraisablehook = quiet_hook
    yield
    logger.removeFilter(keep)
    if sys.unraisablehook is quiet_hook:
        sys.unraisablehook = hook


def _sync(directory: pathlib.Path) -> None:
    """Flushes all files to the disk, before the directory is renamed."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _wait_for_all(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"ola_jax.storage.{name}")
