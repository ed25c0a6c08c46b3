"""Errors that the user can mend: shown as one line, without a traceback."""


class OlaError(Exception):
    """A mistake in what the user gave: a file, a record, a key, an option.

    The message is one line and says what was found, where, what was expected, and what to do.
    Command-line tools print it and leave with exit status 2.
    """
