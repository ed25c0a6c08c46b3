"""The other side of `process_voice`: a function as a voice, in any Python 3.9 or newer, without ola_jax.

Copy this file beside a script such as

    from voice_worker import serve

    def speak(text):  # yields float samples in [-1, 1], mono
        ...

    serve(speak, rate=24000)

and give `python script.py` to ProcessVoice. Audio goes through the standard output, so what the script
and its libraries print is sent to the standard error.
"""

import array
import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

HEADER = struct.Struct("<cI")
BLOCK = 4800  # samples of one frame


def serve(speak: Callable[[str], Any], rate: int) -> None:
    """Answer until the standard input ends. `speak(text)` returns or yields samples (numbers, or arrays)."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests: Any = queue.Queue()
    cancelled = threading.Event()
    threading.Thread(target=_read, args=(requests, cancelled), daemon=True).start()
    _send(output, b"r", json.dumps({"rate": rate}).encode())
    while True:
        text = requests.get()
        if text is None:
            return
        cancelled.clear()
        try:
            _speak(speak, text, output, cancelled)
        except Exception as error:
            _send(output, b"x", f"{type(error).__name__}: {error}".encode())


def _speak(speak: Callable[[str], Any], text: str, output: BinaryIO, cancelled: threading.Event) -> None:
    parts = speak(text)
    for part in parts if hasattr(parts, "__next__") else [parts]:
        samples = part.tolist() if hasattr(part, "tolist") else list(part)
        for at in range(0, len(samples), BLOCK):
            if cancelled.is_set():
                break
            block = [int(max(-1.0, min(1.0, x)) * 32767) for x in samples[at : at + BLOCK]]
            pcm = array.array("h", block)
            if sys.byteorder == "big":
                pcm.byteswap()
            _send(output, b"a", pcm.tobytes())
        if cancelled.is_set():
            break
    _send(output, b"e", b"")


def _read(requests: Any, cancelled: threading.Event) -> None:
    while True:
        header = sys.stdin.buffer.read(HEADER.size)
        if len(header) < HEADER.size:
            requests.put(None)
            os._exit(0)
        kind, size = HEADER.unpack(header)
        payload = sys.stdin.buffer.read(size)
        if kind == b"s":
            requests.put(payload.decode())
        else:
            cancelled.set()


def _send(output: BinaryIO, kind: bytes, payload: bytes) -> None:
    output.write(HEADER.pack(kind, len(payload)) + payload)
    output.flush()
