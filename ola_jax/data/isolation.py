"""Decoding in processes that can be ended: a decoder that hangs or crashes costs one record."""

import weakref
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from ola_jax.data.decoding_process import name_media
from ola_jax.data.media import CrashedError, TimedOutError
from ola_jax.data.worker_processes import ClosedError, EndedError, ProcessPool
from ola_jax.errors import OlaError

__all__ = ["ClosedError", "IsolatedDecoder"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class IsolatedDecoder:
    """Calls functions in processes of its own, each for at most `seconds`; for `Processor.decode`.

    Functions and arguments are pickled, so functions must be at the top level of a module. Any number of
    threads may call; each waits for its own result. There are at most as many processes as concurrent calls;
    they start when needed, are reused, and end with `close`, with this object, or with the process that
    created it.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise OlaError(f"decode_seconds is {seconds}; expected more than 0")
        self._seconds = seconds
        self._pool = ProcessPool()
        self._end = weakref.finalize(self, ProcessPool.close, self._pool)

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Returns the function's result, or raises its OlaError; others become a BadMediaError naming them.

        Raises TimedOutError or CrashedError, naming the first argument, if the process was ended or died.
        """
        try:
            return self._pool.call(self._seconds, function, arguments)
        except EndedError as error:
            kind = TimedOutError if error.kind == "timed out" else CrashedError
            raise kind(f"{name_media(arguments)}: {error.reason}") from error

    def close(self) -> None:
        """Ends all processes, including those that are decoding."""
        self._end()
