"""Compiled programs kept on disk, so that the next start of the same work need not compile."""

import pathlib
import sys
import tempfile
import threading
from typing import Any

import jax

FOLDER = "~/.cache/ola_jax"  # of command-line tools, if the user names no other
OFF = "none"
MAX_BYTES = 8 * 2**30  # what was not used for longest is removed above it
PATIENCE = 3.0  # seconds of compiling after which a user at a terminal is told why it takes long


def keep_compiled_programs(folder: str) -> None:
    """From now on keep every compiled program of this process in `folder`, and take those that are there.

    "none": keep nothing. A folder that cannot be written is reported in one line on stderr, and the process
    works without. Whoever can write the folder can make the process run anything: it is the user's own.
    """
    if folder == OFF:
        return
    try:
        path = pathlib.Path(folder).expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError, ValueError) as error:  # no place, no home, no name of a file
        reason = getattr(error, "strerror", None) or str(error)
        print(f"note: {folder}: compiled programs are not kept ({reason})", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if sys.stderr is not None and sys.stderr.isatty():
        jax.monitoring.register_event_listener(Patience(folder))


class Patience:
    """Listens to JAX's events and says, once, that compiling takes its time."""

    def __init__(self, folder: str):
        self._folder, self._said = folder, False
        self._timer: threading.Timer | None = None

    def __call__(self, event: str, **_: Any) -> None:
        name = event.removeprefix("/jax/compilation_cache/")
        if name in ("compile_requests_use_cache", "cache_hits", "cache_misses") and self._timer:
            self._timer.cancel()
        if name == "compile_requests_use_cache" and not self._said:
            self._timer = threading.Timer(PATIENCE, self._say)
            self._timer.daemon = True
            self._timer.start()

    def _say(self) -> None:
        self._said = True
        print(f"compiling ... (once: kept in {self._folder} for the next time)", file=sys.stderr)
