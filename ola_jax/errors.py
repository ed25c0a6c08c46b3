"""Errors that the user can mend: shown as one line, without a traceback."""

import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO


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
    previous, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        try:
            main()
        except OlaError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            sys.unraisablehook = previous
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        # Not sys.exit: threads of libraries are still at work, and crash while the interpreter ends.
        os._exit(128 + signal.SIGINT)
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _closed(stream)]
        if not closed:
            raise  # another pipe, not the output
        for stream in closed:  # what they still hold goes nowhere, at the interpreter's end too
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _interrupt_again(unraisable: Any) -> None:
    """Where Ctrl-C comes while Python cannot raise (JAX hooks into its garbage collector): a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _closed(stream: TextIO) -> bool:
    """Whether `stream` is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
