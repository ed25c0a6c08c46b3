"""Reporting the progress of a conversion."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with the bytes done and the total bytes


def ignore(done: int, total: int) -> None:
    """A Progress that reports nothing."""
