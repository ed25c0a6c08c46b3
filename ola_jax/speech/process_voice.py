"""A voice in a process of its own, with another Python, for libraries that cannot share ours."""

import json
import os
import pathlib
import selectors
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from ola_jax.errors import OlaError
from ola_jax.speech.callable_voice import resampled
from ola_jax.speech.language import Script
from ola_jax.speech.voice import SPEECH_RATE, Samples, VoiceError

# Both sides send frames: a letter, the number of bytes that follow (uint32, little-endian), the bytes.
HEADER = struct.Struct("<cI")
READY, AUDIO, END, FAILED, SPEAK, CANCEL = b"r", b"a", b"e", b"x", b"s", b"c"
MAX_FRAME = 16 * 2**20
WORKER = pathlib.Path(__file__).with_name("voice_worker.py")


class ProcessVoice:
    """Runs `command`, which speaks the frames of voice_worker.py; one text at a time.

    The process must be ready within `start_seconds` and send something at least every `read_seconds`; if it
    does not, or ends, it is started again for the next text.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str = "process",
        scripts: frozenset[Script] | None = None,
        start_seconds: float = 120.0,
        read_seconds: float = 30.0,
    ):
        self._command, self._start_seconds, self._read_seconds = tuple(command), start_seconds, read_seconds
        self.name, self.scripts = name, scripts
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rate = SPEECH_RATE
        self._start()

    def speak(self, text: str) -> Iterator[Samples]:
        """Parts as the process sends them; closing the iterator cancels the rest."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            self._send(SPEAK, text.encode())
            done = False
            try:
                parts = self._parts()
                yield from resampled(parts, self._rate)
                done = True
            finally:
                if not done:
                    self._cancel()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()

    def _start(self) -> None:
        self.close()
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise OlaError(
                f"voice {self.name}: cannot run {self._command[0]!r} ({error.strerror})"
            ) from error
        kind, payload = self._receive(self._start_seconds)
        if kind != READY:
            self.close()
            raise OlaError(
                f"voice {self.name}: {payload.decode(errors='replace')[:300] or 'no voice worker'}"
            )
        self._rate = int(json.loads(payload)["rate"])

    def _parts(self) -> Iterator[Samples]:
        while True:
            kind, payload = self._receive(self._read_seconds)
            if kind == END:
                return
            if kind == FAILED:
                raise VoiceError(f"{self.name}: {payload.decode(errors='replace')[:300]}")
            yield np.frombuffer(payload, "<i2").astype(np.float32) / 32768

    def _cancel(self) -> None:
        """Tell the process to stop, and skip what it has sent; a process that does not stop is ended."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._send(CANCEL, b"")
                until = time.monotonic() + 2.0
                while self._receive(until - time.monotonic())[0] not in (END, FAILED):
                    pass
        except VoiceError:
            self.close()

    def _send(self, kind: bytes, payload: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise VoiceError(f"{self.name}: its process has ended")
        try:
            process.stdin.write(HEADER.pack(kind, len(payload)) + payload)
        except OSError as error:
            raise VoiceError(f"{self.name}: its process has ended") from error

    def _receive(self, seconds: float) -> tuple[bytes, bytes]:
        kind, size = HEADER.unpack(self._read(HEADER.size, seconds))
        if kind not in (READY, AUDIO, END, FAILED) or size > MAX_FRAME:
            self.close()
            raise VoiceError(f"{self.name}: its process sent something else than frames of audio")
        return kind, self._read(size, seconds)

    def _read(self, size: int, seconds: float) -> bytes:
        process = self._process
        if process is None or process.stdout is None:
            raise VoiceError(f"{self.name}: its process has ended")
        data, until = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(data) < size:
                if not selector.select(max(0.0, until - time.monotonic())):
                    self.close()
                    raise VoiceError(f"{self.name}: its process sent nothing for {seconds:.0f} s")
                if not (received := os.read(process.stdout.fileno(), size - len(data))):
                    self.close()
                    raise VoiceError(f"{self.name}: its process has ended")
                data += received
        return data
