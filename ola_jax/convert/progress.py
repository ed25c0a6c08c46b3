"""Reports of how far a conversion is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # is called with the bytes done and the bytes in all


def ignore(done: int, total: int) -> None:
    """The Progress that nobody watches."""
