"""Errors that the user can correct: shown as one short line, without a traceback."""

import importlib.util
import io
import os
import reprlib
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, TextIO

MAX_MESSAGE = 600  # characters of an OlaError: room for two long paths
MAX_VALUE = 80  # characters of a value that a message quotes


class OlaError(Exception):
    """A mistake in the user's input: a file, a record, a key, an option.

    The message is one line: what was found, where, what was expected, and what to do. Line ends and other
    characters that cannot be printed are escaped, and the middle of a very long message is left out.
    Command-line tools print it and exit with status 2.
    """

    longest: ClassVar[int] = MAX_MESSAGE

    def __init__(self, message: object = ""):
        super().__init__(shortened(one_line(str(message)), self.longest))


class SettingsError(OlaError):
    """Settings that are not possible, with all their problems in one line."""

    longest: ClassVar[int] = 4000


class MissingLibraryError(OlaError, ImportError):
    """A library of one of ola_jax's extras is not installed."""


def require(extra: str, *libraries: str) -> None:
    """Raises MissingLibraryError, which names the extra, unless all libraries are installed."""
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingLibraryError(f"{', '.join(missing)}: not installed; run: pip install 'ola_jax[{extra}]'")


def one_line(text: str) -> str:
    """The text with line ends, control characters and lone surrogates as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and its end if it is longer than `length` characters."""
    if len(text) <= length:
        return text
    end = (length - 5) // 3
    return f"{text[: length - 5 - end]} ... {text[-end:]}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its name if it has none."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # __str__ of a foreign exception may fail
        lines = []
    return shortened(one_line(lines[0]), MAX_MESSAGE // 2) if lines else type(error).__name__


def describe(error: BaseException) -> str:
    """The name of an unexpected exception, and the first line of its text."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def quote(value: object) -> str:
    """The value's `repr`, shortened to at most MAX_VALUE characters for a message."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, MAX_VALUE, MAX_VALUE
    short.maxlist = short.maxtuple = short.maxset = short.maxdict = 4
    try:
        text = short.repr(value)
    except Exception:  # such as an int of too many digits
        text = f"<{type(value).__name__}>"
    return shortened(one_line(text), MAX_VALUE)


def run(main: Callable[[], None]) -> None:
    """Runs a command-line tool: an OlaError becomes one line on stderr and exit status 2.

    Ctrl-C ends it silently with status 130, and a closed output (`| head`) with 141, as shells number
    signals. Characters that the terminal's encoding lacks are written as escapes.
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
        # Not sys.exit: threads of libraries still run, and crash while the interpreter shuts down.
        os._exit(128 + signal.SIGINT)
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_closed(stream)]
        if not closed:
            raise  # another pipe, not the output
        for stream in closed:  # discards what they still buffer, also when the interpreter exits
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _interrupt_again(unraisable: Any) -> None:
    """Repeats Ctrl-C a moment later if Python could not raise it (JAX hooks into its garbage collector)."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _is_closed(stream: TextIO) -> bool:
    """True if `stream` is a pipe without a reader."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
