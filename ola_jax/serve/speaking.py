"""Speaking a text as it is written, for a client: PCM in parts, and what was not spoken."""

import dataclasses
import logging
import threading
from collections.abc import Callable

from ola_jax.speech.pieces import PieceConfig
from ola_jax.speech.pipeline import (
    PieceSkipped,
    SpeechAudio,
    SpeechConfig,
    SpeechEvent,
    SpeechReport,
    SpeechStream,
)
from ola_jax.speech.voice import SPEECH_RATE, Voice
from ola_jax.speech.waveform import to_pcm16

LOG = logging.getLogger(__name__)
SAMPLE_BYTES = 2
# Base64 of a multiple of 3 bytes has no padding, so clients may join the texts; with 6 no sample is split.
PART_BYTES = 6
# No times: pieces and audio are a function of the text alone, however busy the server is.
BY_TEXT = SpeechConfig(pieces=PieceConfig(first_seconds=None, idle_seconds=None))


@dataclasses.dataclass(frozen=True)
class AudioPart:
    """The next audio: 16-bit PCM, a multiple of PART_BYTES."""

    pcm: bytes


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A piece of the text, or a part of it, that was not spoken; `reason` is for the client."""

    text: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SpeechEnd:
    """Everything is spoken; no part follows. Without a report the voice has failed altogether."""

    skipped: tuple[Skipped, ...]
    report: SpeechReport | None


SpokenEvent = AudioPart | SpeechEnd


class SpokenText:
    """Speaks one text; `receive` is called from other threads, in order, with SpeechEnd at last.

    After `interrupt` nothing but what is being delivered is received.
    """

    def __init__(self, voice: Voice, receive: Callable[[SpokenEvent], object], most_seconds: float):
        self._receive, self._left = receive, int(most_seconds * SPEECH_RATE) * SAMPLE_BYTES
        self._most_seconds = most_seconds
        self._rest = b""
        self._skipped: list[Skipped] = []
        self._interrupted = threading.Event()
        self._stream = SpeechStream(voice, self._listen, BY_TEXT)

    def write(self, text: str) -> None:
        """The next part of the text."""
        self._stream.write(text)

    def finish(self) -> None:
        """The end of the text; returns at once."""
        self._stream.finish()
        threading.Thread(target=self._end, name="speech-end", daemon=True).start()

    def interrupt(self) -> None:
        """Stop at once."""
        self._interrupted.set()
        self._stream.interrupt()

    def _listen(self, event: SpeechEvent) -> None:
        if isinstance(event, SpeechAudio):
            self._add(to_pcm16(event.samples))
        elif isinstance(event, PieceSkipped):
            LOG.log(
                logging.WARNING if event.reason == "voice failed" else logging.INFO,
                "a piece of an answer is not spoken: %s %s",
                event.reason,
                event.detail,
            )
            # Details of a failure may name addresses inside.
            reason = event.detail if event.reason == "language" else event.reason
            self._skipped.append(Skipped(event.piece.text, reason))

    def _add(self, pcm: bytes) -> None:
        pcm, self._left = pcm[: self._left], self._left - len(pcm)
        data = self._rest + pcm
        whole = len(data) // PART_BYTES * PART_BYTES
        self._rest = data[whole:]
        if whole:
            self._receive(AudioPart(data[:whole]))
        if self._left <= 0:
            self._skipped.append(Skipped("", f"longer than {self._most_seconds:g} seconds"))
            self._stream.interrupt()

    def _end(self) -> None:
        report = None
        try:
            report = self._stream.wait()
        except Exception:  # not of one piece, which is skipped
            LOG.exception("speech has failed")
            self._skipped.append(Skipped("", "voice failed"))
        if self._interrupted.is_set():
            return
        if self._rest:
            self._receive(AudioPart(self._rest.ljust(PART_BYTES, b"\0")))
        self._receive(SpeechEnd(tuple(self._skipped), report))
