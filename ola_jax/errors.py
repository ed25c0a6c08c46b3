"""Errors that the user can mend: shown as one line, without a traceback."""

import io
import os
import signal
import sys
from collections.abc import Callable


class OlaError(Exception):
    """A mistake in what the user gave: a file, a record, a key, an option.

    The message is one line and says what was found, where, what was expected, and what to do.
    Command-line tools print it and leave with exit status 2.
    """


def run(main: Callable[[], None]) -> None:
    """Run a command-line tool: an OlaError becomes one line on stderr and exit status 2.

    Ctrl-C ends it with status 130, and a reader of its output that has gone away (`| head`) with 141, as
    shells number signals, both without a word. What the terminal's encoding lacks is written as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        except OlaError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        if not _discard_if_closed(sys.stdout) and not _discard_if_closed(sys.stderr):
            raise  # another pipe, not the output
        sys.exit(128 + signal.SIGPIPE)


def _discard_if_closed(stream: io.TextIOBase) -> bool:
    """Whether nobody reads `stream`; then what it still holds goes nowhere, at the interpreter's end too."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False
