"""Directories that are replaced as a whole, and what keeps a machine from reading or writing one."""

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
def replacing(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new directory beside `directory` that takes its place when the block ends well.

    Processes enter and leave together; the first makes the directory and moves it.
    """
    place = directory.absolute()
    if jax.process_index() != 0:
        _meet("build")
        yield place.with_name(f".{place.name}.partial")
        _meet("replaced")
        return
    build, old = (place.with_name(f".{place.name}.{kind}") for kind in ("partial", "old"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not place.exists():  # killed between the two renames below
            old.rename(place)
        for leftover in (build, old):  # of a run that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        build.mkdir()
    except OSError as error:
        raise OlaError(f"{directory}: cannot be written ({error.strerror})") from error
    try:
        _meet("build")
        with quiet_storage():
            yield build
        _sync(build)
        if place.exists():
            place.rename(old)
        build.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        _meet("replaced")
    except BaseException as error:
        if old.exists() and not place.exists():
            old.rename(place)
        remove_unfinished(build)
        if not isinstance(error, OlaError) and (why := storage_trouble(error, writing=True)):
            raise OlaError(
                f"{directory}: cannot be written ({why}); nothing there was changed: make room for it, or "
                "choose another place, and start again"
            ) from error
        raise


def storage_trouble(error: BaseException, writing: bool = False) -> str | None:
    """What keeps this machine from reading or writing now, in a few words: no memory, space or permission.

    None for any other error: of the data, or of the program. Files that are not there are trouble to a
    writer only.
    """
    for each in _chain(error):
        if isinstance(each, MemoryError):
            return "out of memory"
        number = each.errno if isinstance(each, OSError) else None
        if found := _OS_ERROR.search(str(each)):  # as tensorstore says it
            number = int(found[1])
        if number and (writing or number not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)):
            return os.strerror(number)
        if found := _REFUSED.search(str(each)):
            return "out of memory" if found[0] == "RESOURCE_EXHAUSTED" else found[0].lower().replace("_", " ")
    return None


_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
_REFUSED = re.compile(r"RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those it came from."""
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
    """Remove what a save that failed left, until it stays away: some of its threads may still write."""
    end, absent = time.monotonic() + seconds, 0
    while absent < 4 and time.monotonic() < end:
        absent = 0 if directory.exists() else absent + 1
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.05)


@contextlib.contextmanager
def quiet_storage() -> Iterator[None]:
    """Within the block, Orbax does not print the errors that it raises as well.

    A failed save is printed with a traceback by each of its threads, and once more for each array that
    was still on its way to the disk ("Event loop is closed"). After an error it stays quiet: its threads
    end later.
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
    """All files are on the disk, not only in memory, before the directory takes its place."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _meet(name: str) -> None:
    """Wait for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"ola_jax.checkpoint.{name}")
