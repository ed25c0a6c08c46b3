"""Destinations of speech: a WAV file, and a program that plays it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import wave
from typing import Protocol, runtime_checkable

from ola_jax.errors import OlaError
from ola_jax.speech.voice import SPEECH_RATE, Samples
from ola_jax.speech.waveform import to_pcm16

# Programs that play 16-bit PCM, 24 kHz, mono, from their standard input; the first that is found is taken.
PLAYERS = (
    ("pw-play", "--raw", f"--rate={SPEECH_RATE}", "--channels=1", "--format=s16", "-"),
    ("paplay", "--raw", f"--rate={SPEECH_RATE}", "--channels=1", "--format=s16le"),
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-r", str(SPEECH_RATE), "-c", "1"),
    ("play", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-r", str(SPEECH_RATE), "-c", "1", "-"),
    (
        "ffplay",
        "-loglevel",
        "error",
        "-nodisp",
        "-autoexit",
        "-f",
        "s16le",
        "-ar",
        str(SPEECH_RATE),
        "-i",
        "-",
    ),
)


@runtime_checkable
class Output(Protocol):
    """Takes audio as it comes."""

    def write(self, samples: Samples) -> None:
        """The next samples, at SPEECH_RATE."""

    def close(self) -> None:
        """The end of the audio."""


class WavFile:
    """A WAV file (16 bits, mono), written beside its place and renamed at the end."""

    def __init__(self, path: pathlib.Path):
        if path.is_dir():
            raise OlaError(f"{path}: a directory; give a file such as answer.wav")
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        try:
            self._file = open(self._partial, "wb")  # noqa: SIM115 - closed by close
        except OSError as error:
            raise OlaError(f"{path}: cannot be written ({error.strerror})") from error
        self._wave = wave.open(self._file, "wb")  # noqa: SIM115
        self._wave.setparams((1, 2, SPEECH_RATE, 0, "NONE", ""))

    def write(self, samples: Samples) -> None:
        """The next samples."""
        self._wave.writeframes(to_pcm16(samples))

    def close(self) -> None:
        """Complete the file."""
        self._wave.close()
        self._file.close()
        os.replace(self._partial, self._path)

    def discard(self) -> None:
        """Leave no file."""
        self._wave.close()
        self._file.close()
        self._partial.unlink(missing_ok=True)


class Player:
    """Plays audio by the first of PLAYERS that is installed."""

    def __init__(self) -> None:
        command = next((command for command in PLAYERS if shutil.which(command[0])), None)
        if command is None:
            names = ", ".join(command[0] for command in PLAYERS)
            raise OlaError(f"no program that plays audio; install one of {names}, or write a WAV file")
        self._name = command[0]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def write(self, samples: Samples) -> None:
        """The next samples; blocks while the program's buffer is full."""
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(to_pcm16(samples))
            self._process.stdin.flush()
        except OSError as error:
            self.close()
            status = self._process.returncode
            raise OlaError(f"{self._name} ended with status {status}; audio is not played") from error

    def close(self) -> None:
        """Wait until everything has been played."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def discard(self) -> None:
        """Stop at once."""
        self._process.kill()
        self._process.wait()
