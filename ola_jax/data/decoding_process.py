"""The process that decodes media and assembles rows: `python -m ola_jax.data.decoding_process SOCKET PARENT`.

It imports neither JAX nor the user's script, and lives no longer than its parent.
"""

import contextlib
import importlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

from ola_jax.data.media import BadMediaError, short
from ola_jax.data.messages import receive, send
from ola_jax.errors import OlaError, first_line

WATCH_SECONDS = 1.0  # between checks that the parent is alive


def serve(connection: socket.socket, parent: int) -> None:
    """Serves requests until the other end is closed or the parent has died.

    The first message is an object, pickled, that becomes the first argument of all functions; or None. A
    request is a time limit in seconds, and a function with its arguments, pickled. The answer is "result" and
    the function's result, or "error" and its exception. Before, a generator sends what it yields, as
    "progress"; the time limit then begins again.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are meant for the parent
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, this process is killed first
    with contextlib.suppress(EOFError, OSError):
        setup = receive(connection)
        try:
            first = () if setup is None else (pickle.loads(setup),)
        except Exception as error:  # such as a class of the user's script
            reason = f"{type(error).__name__}: {first_line(error)}"
            send(connection, ("error", OlaError(f"a process cannot load what it needs ({reason})")))
            return
        send(connection, ("progress", "ready"))
        while True:
            seconds, request = receive(connection)
            # The kernel's timer ends a decoder that holds the GIL after the parent has died.
            signal.setitimer(signal.ITIMER_REAL, seconds + 2 * WATCH_SECONDS)
            _answer(connection, seconds, request, first)
            signal.setitimer(signal.ITIMER_REAL, 0)


def name_media(arguments: tuple[object, ...]) -> str:
    """The media of a call, for messages: its first argument."""
    return short(arguments[0]) if arguments else "media"


def _answer(connection: socket.socket, seconds: float, request: bytes, first: tuple[object, ...]) -> None:
    media = "media"
    answer: tuple[str, Any]
    try:
        function, arguments = pickle.loads(request)
        media = name_media(arguments)
        result = function(*first, *arguments)
        if isinstance(result, Generator):
            result = _report(connection, seconds, result)
        answer = ("result", result)
        pickle.dumps(answer, protocol=5, buffer_callback=lambda buffer: None)  # raises if it cannot be sent
    except OlaError as error:
        answer = ("error", error)
    except Exception as error:
        reason = f"{media}: cannot be decoded ({type(error).__name__}: {first_line(error)})"
        answer = ("error", BadMediaError(reason))
    send(connection, answer)


def _report(connection: socket.socket, seconds: float, steps: Generator[Any, None, Any]) -> Any:
    """Sends what a generator yields, and returns what it returns."""
    while True:
        try:
            value = next(steps)
        except StopIteration as stop:
            return stop.value
        signal.setitimer(signal.ITIMER_REAL, seconds + 2 * WATCH_SECONDS)
        send(connection, ("progress", value))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    importlib.import_module("ola_jax.data.decoding")  # not in the time of the first call
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
