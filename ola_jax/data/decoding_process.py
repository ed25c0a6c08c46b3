"""The process in which media are decoded: `python -m ola_jax.data.decoding_process SOCKET PARENT`.

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

from ola_jax.data.media import BadMediaError, short
from ola_jax.data.messages import receive, send
from ola_jax.errors import OlaError, first_line

WATCH_SECONDS = 1.0  # between looks whether the parent is still there


def serve(connection: socket.socket, parent: int) -> None:
    """Answer requests until the other end is closed or the parent is gone.

    A request is a limit in seconds, and a function with its arguments, pickled; an answer is whether the
    function returned, and its result or exception.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are meant for the parent
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, this process goes first
    with contextlib.suppress(EOFError, OSError):
        send(connection, "ready")
        while True:
            seconds, request = receive(connection)
            # The system's own clock ends a decoder that holds Python's lock while the parent is gone.
            signal.setitimer(signal.ITIMER_REAL, seconds + 2 * WATCH_SECONDS)
            _answer(connection, request)
            signal.setitimer(signal.ITIMER_REAL, 0)


def subject(arguments: tuple[object, ...]) -> str:
    """What a call is about, for messages: its first argument."""
    return short(arguments[0]) if arguments else "media"


def _answer(connection: socket.socket, request: bytes) -> None:
    about = "media"
    try:
        function, arguments = pickle.loads(request)
        about = subject(arguments)
        answer = (True, function(*arguments))
        pickle.dumps(answer, protocol=5, buffer_callback=lambda buffer: None)  # can it be sent?
    except OlaError as error:
        answer = (False, error)
    except Exception as error:
        reason = f"{about}: cannot be decoded ({type(error).__name__}: {first_line(error)})"
        answer = (False, BadMediaError(reason))
    send(connection, answer)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    importlib.import_module("ola_jax.data.decoding")  # not on the time of the first call
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
