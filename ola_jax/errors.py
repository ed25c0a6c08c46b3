"""Errors that the user can mend: shown as one line, without a traceback."""

import sys
from collections.abc import Callable


class OlaError(Exception):
    """A mistake in what the user gave: a file, a record, a key, an option.

    The message is one line and says what was found, where, what was expected, and what to do.
    Command-line tools print it and leave with exit status 2.
    """


def run(main: Callable[[], None]) -> None:
    """Run a command-line tool: an OlaError becomes one line on stderr and exit status 2."""
    try:
        main()
    except OlaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, cut to 200 characters; its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
