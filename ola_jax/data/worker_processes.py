"""Processes that decode and assemble for this one, and can be ended."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from ola_jax.data.messages import receive, send
from ola_jax.errors import OlaError, first_line

START_SECONDS = 120.0  # for the process to import its libraries, on a busy machine
WAIT_SECONDS = 0.5  # of all threads together, before another process is started: about the cost of a start
NOTICE_SECONDS = 30.0  # between notices that a process has not answered
KILL_SECONDS = 10.0  # for a process that was killed to end


class ClosedError(OlaError):
    """A call that `close` ended, whatever the media."""


class EndedError(Exception):
    """A process that was ended because it took too long, or that died, during a call."""

    def __init__(self, kind: Literal["timed out", "decoder crashed"], reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class WorkerProcess:
    """The parent's side of one process; `setup`, pickled, is the first argument of what it calls."""

    def __init__(self, setup: bytes | None) -> None:
        self._setup = setup
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
        self,
        seconds: float,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        progress: Callable[[Any], None] = lambda value: None,
        waiting: Callable[[float], None] = lambda seconds: None,
    ) -> tuple[bool, Any]:
        """Returns True and the function's result, or False and its exception.

        If the function is a generator, each value that it yields goes to `progress`, and begins the time
        again. `waiting` is called about every NOTICE_SECONDS without a message, with the time so far. Raises
        TimeoutError, EOFError or OSError.
        """
        request = pickle.dumps((function, arguments), protocol=5)
        if not self.calls:
            self.connection.settimeout(START_SECONDS)
            send(self.connection, self._setup)
            kind, value = receive(self.connection)
            if kind == "error":
                raise value
        self.calls += 1
        self.connection.settimeout(seconds)
        send(self.connection, (seconds, request))
        while True:
            self._await_message(seconds, waiting)
            kind, value = receive(self.connection)
            if kind != "progress":
                return kind == "result", value
            progress(value)

    def _await_message(self, seconds: float, waiting: Callable[[float], None]) -> None:
        waited = 0.0
        while True:
            part = min(seconds - waited, NOTICE_SECONDS)
            self.connection.settimeout(part)
            try:
                self.connection.recv(1, socket.MSG_PEEK)
                self.connection.settimeout(seconds)
                return
            except TimeoutError:
                waited += part
                if waited >= seconds:
                    raise
                waiting(waited)

    def kill(self, wait: float = 0.0) -> str:
        """Ends the process unless it ends by itself within `wait` seconds; returns how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(wait)
        self.process.kill()
        self.connection.close()
        try:
            status = self.process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:  # it waits for a file system, and ends when that answers
            return "it cannot be ended"
        return signal.Signals(-status).name if -status in set(signal.Signals) else f"exit status {status}"


class ProcessPool:
    """The processes; another is started when threads have waited for as long as a start takes."""

    def __init__(self, setup: bytes | None = None) -> None:
        self._setup = setup
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self._waited = 0.0  # seconds, of all threads, since the last start
        self.closed = False

    def call(
        self,
        seconds: float,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        progress: Callable[[Any], None] = lambda value: None,
        waiting: Callable[[float], None] = lambda seconds: None,
    ) -> Any:
        """The result of a function called in a process, as by `WorkerProcess.call`; raises what it raised.

        Raises EndedError if the process took too long or died, ClosedError if the pool was closed, and
        OlaError if no process could be started.
        """
        worker, begun = self.take(), False

        def note(value: Any) -> None:
            nonlocal begun
            begun = True
            progress(value)

        try:
            succeeded, value = worker.call(seconds, function, arguments, progress=note, waiting=waiting)
        except TimeoutError:
            worker.kill()
            if worker.calls == 0:
                raise OlaError(
                    f"the process that decodes media did not start within {START_SECONDS:g} seconds; reduce "
                    "the load of the machine"
                ) from None
            raise EndedError(
                "timed out",
                f"decoding took more than {seconds:g} seconds (decode_seconds) and was ended; shorten or "
                "convert the file, or raise the limit",
            ) from None
        except (EOFError, OSError) as error:
            how = worker.kill(wait=1.0)
            if self.closed:
                raise ClosedError("decoding was closed") from error
            if worker.calls == 0:
                raise OlaError(f"the process that decodes media did not start ({how})") from error
            if worker.calls > 1 and not begun and isinstance(error, ConnectionError):  # it died before
                return self.call(seconds, function, arguments, progress=progress, waiting=waiting)
            reason = f"the decoder crashed ({how}); convert the file or remove it"
            raise EndedError("decoder crashed", reason) from error
        except BaseException:  # an interrupt, or a pickling error: the process may still be busy
            worker.kill()
            raise
        finally:
            self.give_back(worker)
        if not succeeded:
            raise value
        return value

    def take(self) -> WorkerProcess:
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

    def give_back(self, worker: WorkerProcess) -> None:
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
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(KILL_SECONDS)
        for worker in idle:
            worker.connection.close()

    def _start(self) -> WorkerProcess:
        self._waited = 0.0
        try:
            worker = WorkerProcess(self._setup)
        except OSError as error:
            raise OlaError(
                f"the process that decodes media cannot be started ({first_line(error)})"
            ) from error
        self._all.add(worker)
        return worker

    def _drop(self, worker: WorkerProcess) -> None:
        self._all.discard(worker)
        worker.connection.close()
