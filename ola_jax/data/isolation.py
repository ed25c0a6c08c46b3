"""Decoding in processes that can be ended: a decoder that hangs or crashes costs one record."""

import weakref
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from ola_jax.data.decoding_process import name_media
from ola_jax.data.media import CrashedError, TimedOutError
from ola_jax.data.worker_processes import START_SECONDS, ClosedError, ProcessPool
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
        worker = self._pool.take()
        try:
            succeeded, value = worker.call(self._seconds, function, arguments)
        except TimeoutError:
            worker.kill()
            if worker.calls == 0:
                raise OlaError(
                    f"the process that decodes media did not start within {START_SECONDS:g} seconds; reduce "
                    "the load of the machine"
                ) from None
            raise TimedOutError(
                f"{name_media(arguments)}: decoding took more than {self._seconds:g} seconds "
                "(decode_seconds) and was ended; shorten or convert the file, or raise the limit"
            ) from None
        except (EOFError, OSError) as error:
            how = worker.kill(wait=1.0)
            if self._pool.closed:
                raise ClosedError("decoding was closed") from error
            if worker.calls == 0:
                raise OlaError(f"the process that decodes media did not start ({how})") from error
            if worker.calls > 1 and isinstance(error, ConnectionError):  # it died before this call
                return self(function, *arguments)
            reason = f"the decoder crashed ({how}); convert the file or remove it"
            raise CrashedError(f"{name_media(arguments)}: {reason}") from error
        except BaseException:  # an interrupt, or a pickling error: the process may still be busy
            worker.kill()
            raise
        finally:
            self._pool.give_back(worker)
        if not succeeded:
            raise value
        return value

    def close(self) -> None:
        """Ends all processes, including those that are decoding."""
        self._end()
