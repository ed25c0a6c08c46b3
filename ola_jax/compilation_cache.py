"""Compiled programs kept on disk, so that the next start of the same run need not compile."""

import pathlib
import sys
import tempfile
import threading
import time

import jax

from ola_jax.errors import OlaError

FOLDER = "~/.cache/ola_jax"  # of command-line tools, if the user names no other
OFF = "none"
MAX_BYTES = 8 * 2**30  # above it the least recently used programs are removed
PATIENCE = 1.0  # seconds of compiling after which a user at a terminal is shown why it takes long


def keep_compiled_programs(folder: str) -> None:
    """Keeps all compiled programs of this process in `folder` from now on, and reuses those already there.

    "none" keeps nothing. If the folder cannot be written, one line on stderr reports it and nothing is
    kept. Anyone who can write to the folder can make this process run any code, so only the user may.
    """
    if folder == OFF:
        return
    if not folder:
        raise OlaError(f"the folder for compiled programs is empty text; name one, or {OFF!r}")
    try:
        path = pathlib.Path(folder).expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        remove_half_written(path)
    except (OSError, RuntimeError, ValueError) as error:  # disk full, no home directory, no valid name
        reason = getattr(error, "strerror", None) or str(error)
        print(f"note: {folder}: compiled programs are not kept ({reason})", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def remove_half_written(folder: pathlib.Path, seconds: float = 60.0) -> None:
    """Removes programs that a killed process left half-written at least `seconds` ago.

    JAX would neither read nor replace them. It writes a program's time of use after the program.
    """
    for file in folder.glob("*-cache"):
        used = file.with_name(file.name.removesuffix("-cache") + "-atime")
        if not used.exists() and time.time() - file.stat().st_mtime >= seconds:
            file.unlink(missing_ok=True)


class CompilationNotice:
    """Reports on stderr, at a terminal, what is being compiled when it takes long."""

    def __init__(self, folder: str, seconds: float = PATIENCE):
        self._kept = "" if folder == OFF else f" (once: kept in {folder} for the next time)"
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def begin(self, line: str) -> None:
        """Notes that the work in `line` has begun, and that the previous work is done."""
        self.end()
        if sys.stderr is not None and sys.stderr.isatty():
            self._timer = threading.Timer(self._seconds, self._report, (line,))
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Notes that the work is done."""
        if self._timer is not None:
            self._timer.cancel()

    def _report(self, line: str) -> None:
        print(f"{line} ...{self._kept}", file=sys.stderr)
