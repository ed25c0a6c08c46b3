"""Decoding in processes that can be ended: a decoder that hangs or crashes costs one record."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from ola_jax.data.decoding_process import name_media
from ola_jax.data.media import CrashedError, TimedOutError
from ola_jax.data.messages import receive, send
from ola_jax.errors import OlaError, first_line

START_SECONDS = 120.0  # for the process to import its libraries, on a busy machine
WAIT_SECONDS = 0.5  # of all threads together, before another process is started: about the cost of a start

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ClosedError(OlaError):
    """A call that `IsolatedDecoder.close` ended, whatever the media."""


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
        self._pool = _Pool()
        self._end = weakref.finalize(self, _Pool.close, self._pool)

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


class _Worker:
    """The parent's side of one process."""

    def __init__(self) -> None:
        self.connection, child_end = socket.socketpair()
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        program = [sys.executable, "-P", "-m", "ola_jax.data.decoding_process"]
        with child_end:
            self.process = subprocess.Popen(
                [*program, str(child_end.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                process_group=0,  # Ctrl-C is meant for the parent
                env=os.environ | {"PYTHONPATH": paths},
            )
        self.calls = 0  # sent so far; 0 until it is ready

    def call(
        self, seconds: float, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[bool, Any]:
        """Returns True and the function's result, or False and its exception."""
        request = pickle.dumps((function, arguments), protocol=5)
        if not self.calls:
            self.connection.settimeout(START_SECONDS)
            receive(self.connection)
        self.calls += 1
        self.connection.settimeout(seconds)
        send(self.connection, (seconds, request))
        return receive(self.connection)

    def kill(self, wait: float = 0.0) -> str:
        """Ends the process unless it ends by itself within `wait` seconds; returns how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(wait)
        self.process.kill()
        status = self.process.wait()
        self.connection.close()
        return signal.Signals(-status).name if -status in set(signal.Signals) else f"exit status {status}"


class _Pool:
    """The processes; another is started when threads have waited for as long as a start takes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._waited = 0.0  # seconds, of all threads, since the last start
        self.closed = False

    def take(self) -> _Worker:
        with self._changed:
            while not self.closed:
                while self._idle:
                    worker = self._idle.pop()
                    if worker.process.poll() is None:
                        return worker
                    self._drop(worker)
                if not self._all or self._waited >= WAIT_SECONDS:
                    return self._start()
                began = time.monotonic()
                self._changed.wait(WAIT_SECONDS - self._waited)
                self._waited += time.monotonic() - began
        raise ClosedError("decoding was closed")

    def give_back(self, worker: _Worker) -> None:
        with self._changed:
            if self.closed or worker.process.poll() is not None:
                self._drop(worker)
            else:
                self._idle.append(worker)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self.closed = True
            workers, idle, self._all, self._idle = self._all, self._idle, set(), []
            self._changed.notify_all()
        for worker in workers:
            worker.process.kill()  # a thread waiting for it then reads the end of the stream
        for worker in workers:
            worker.process.wait()
        for worker in idle:
            worker.connection.close()

    def _start(self) -> _Worker:
        self._waited = 0.0
        try:
            worker = _Worker()
        except OSError as error:
            raise OlaError(
                f"the process that decodes media cannot be started ({first_line(error)})"
            ) from error
        self._all.add(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._all.discard(worker)
        worker.connection.close()
