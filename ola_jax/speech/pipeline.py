"""Speech that begins while the text is still being written."""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from ola_jax.speech.characters import CLOSERS, STOPS
from ola_jax.speech.language import Script, count_scripts
from ola_jax.speech.pieces import Piece, PieceConfig, PieceCutter
from ola_jax.speech.playback import PlaybackClock
from ola_jax.speech.spoken import spoken
from ola_jax.speech.voice import SPEECH_RATE, Samples, Voice, VoiceError
from ola_jax.speech.waveform import even

Reason = Literal["nothing to say", "language", "voice failed", "interrupted"]


@dataclasses.dataclass(frozen=True)
class SpeechConfig:
    """Settings of speech."""

    pieces: PieceConfig = dataclasses.field(default_factory=PieceConfig)
    pause_seconds: float = 0.25  # between pieces
    clause_pause_seconds: float = 0.08  # where a sentence was cut
    loudness_db: float = -20.0  # RMS of speech, below full scale
    block_seconds: float = 0.2  # longest audio of one event
    piece_seconds: float = 60.0  # longest audio of one piece; the rest is cut off and reported


@dataclasses.dataclass(frozen=True)
class SpeechAudio:
    """The next audio; all together is one stream without gaps."""

    samples: Samples
    start: int  # samples before it
    piece: int  # number of the piece, from 0


@dataclasses.dataclass(frozen=True)
class PieceSpoken:
    """A piece has been spoken: where its audio lies in the stream (samples, pauses left out)."""

    number: int
    piece: Piece
    said: str
    start: int
    end: int
    began: float  # seconds since the first text, when its synthesis began
    ended: float


@dataclasses.dataclass(frozen=True)
class PieceSkipped:
    """A piece, or a part of it, that is not spoken."""

    number: int
    piece: Piece
    reason: Reason
    detail: str


SpeechEvent = SpeechAudio | PieceSpoken | PieceSkipped


@dataclasses.dataclass(frozen=True)
class SpeechReport:
    """Figures of a spoken text; seconds since the first text."""

    first_audio_seconds: float | None
    audio_seconds: float
    synthesis_seconds: float
    underruns: int  # gaps of more than 0.1 s, for someone who plays the audio as it comes
    underrun_seconds: float
    pieces: int
    skipped: int

    @property
    def real_time_factor(self) -> float:
        """Seconds of synthesis for a second of audio."""
        return self.synthesis_seconds / self.audio_seconds if self.audio_seconds else 0.0


class SpeechStream:
    """Speaks a text that comes in parts, on a thread of its own.

    `write` takes text as it is written and returns at once; `listener` is called, on the thread, with every
    event in order. Call `finish` at the text's end, or `interrupt` to stop at once, then `wait`.
    """

    def __init__(
        self,
        voice: Voice,
        listener: Callable[[SpeechEvent], object],
        config: SpeechConfig = SpeechConfig(),
    ):
        self._voice, self._listener, self._config = voice, listener, config
        self._lock = threading.Lock()  # of the cutter and what follows
        self._cutter = PieceCutter(config.pieces)
        self._began: float | None = None
        self._pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._finished = False
        self._stop = threading.Event()
        self._spoken: list[PieceSpoken] = []
        self._count = self._skipped = self._samples = 0
        self._synthesis_seconds = 0.0
        self._clock = PlaybackClock()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="speech", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """The next part of the text."""
        with self._lock:
            if self._finished or not text:
                return
            now = time.monotonic()
            self._began = now if self._began is None else self._began
            for piece in self._cutter.add(text, now):
                self._pieces.put(piece)

    def finish(self) -> None:
        """The end of the text."""
        with self._lock:
            if not self._finished:
                self._finished = True
                for piece in self._cutter.finish():
                    self._pieces.put(piece)
                self._pieces.put(None)

    def interrupt(self) -> None:
        """Stop at once: no event comes after this returns but the one that is being delivered."""
        with self._lock:
            self._finished = True
        self._stop.set()
        self._pieces.put(None)

    def wait(self, timeout: float | None = None) -> SpeechReport:
        """Wait until everything is spoken, or was interrupted. Raises what the listener raised."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"speech has not ended after {timeout} s")
        if self._error is not None:
            raise self._error
        clock = self._clock
        return SpeechReport(
            first_audio_seconds=None if clock.started is None else clock.started - (self._began or 0.0),
            audio_seconds=self._samples / SPEECH_RATE,
            synthesis_seconds=self._synthesis_seconds,
            underruns=clock.underruns,
            underrun_seconds=clock.underrun_seconds,
            pieces=self._count,
            skipped=self._skipped,
        )

    def heard(self, samples: int) -> str:
        """The text that someone has heard after so many samples, to the word."""
        text = ""
        for event in list(self._spoken):
            if event.end <= samples:
                text = text.ljust(event.piece.start) + event.piece.text
            elif event.start < samples:
                share = (samples - event.start) / max(1, event.end - event.start)
                part = event.piece.text[: int(len(event.piece.text) * share)]
                text = text.ljust(event.piece.start) + part[: part.rfind(" ") + 1]
        return text

    def _run(self) -> None:
        try:
            while (piece := self._next()) is not None:
                self._speak(piece)
        except BaseException as error:
            self._error = error

    def _next(self) -> Piece | None:
        """The next piece; while there is none, the cutter is asked whether one has waited long enough."""
        while not self._stop.is_set():
            with self._lock:
                deadline = None if self._finished else self._cutter.deadline()
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                return self._pieces.get(timeout=0.05 if wait is None else min(wait, 0.05))
            except queue.Empty:
                with self._lock:
                    if not self._finished:
                        for piece in self._cutter.poll(time.monotonic()):
                            self._pieces.put(piece)
        return None

    def _speak(self, piece: Piece) -> None:
        number, self._count = self._count, self._count + 1
        said = spoken(piece.text)
        if not said:
            self._skip(number, piece, "nothing to say", "")
            return
        if unknown := self._unknown_scripts(said):
            self._skip(number, piece, "language", f"{self._voice.name} does not read {', '.join(unknown)}")
            if set(count_scripts(said)) <= set(unknown):
                return
        began = time.monotonic()
        start, failed = None, False
        try:
            for block in self._blocks(number, piece, said):
                if self._stop.is_set():
                    break
                if start is None:
                    self._pause(number, piece)
                    start = self._samples
                self._emit(block, number)
        except VoiceError as error:
            failed = True
            self._skip(number, piece, "voice failed", str(error))
        ended = time.monotonic()
        self._synthesis_seconds += ended - began
        if start is None:
            if not failed and not self._stop.is_set():
                self._skip(number, piece, "nothing to say", "the voice made no audio of it")
            return
        base = self._began or 0.0
        event = PieceSpoken(number, piece, said, start, self._samples, began - base, ended - base)
        self._spoken.append(event)
        self._deliver(event)

    def _blocks(self, number: int, piece: Piece, said: str) -> Iterator[Samples]:
        """The audio of a piece, in blocks, no longer than a piece may be."""
        size, left = (
            int(self._config.block_seconds * SPEECH_RATE),
            int(self._config.piece_seconds * SPEECH_RATE),
        )
        for samples in even(self._voice.speak(said), self._config.loudness_db):
            for at in range(0, min(len(samples), left), size):
                yield samples[at : min(at + size, left)]
            left -= len(samples)
            if left <= 0:
                self._skip(number, piece, "voice failed", f"cut off after {self._config.piece_seconds} s")
                return

    def _pause(self, number: int, piece: Piece) -> None:
        """Silence between the pieces."""
        if self._samples and self._spoken:
            before = self._spoken[-1].piece.text
            complete = "\n" in before[-2:] or before.rstrip()[-1:] in STOPS | CLOSERS
            seconds = self._config.pause_seconds if complete else self._config.clause_pause_seconds
            self._emit(np.zeros(int(seconds * SPEECH_RATE), np.float32), number)

    def _emit(self, samples: Samples, number: int) -> None:
        self._clock.add(time.monotonic(), len(samples) / SPEECH_RATE)
        event = SpeechAudio(samples, self._samples, number)
        self._samples += len(samples)
        self._deliver(event)

    def _skip(self, number: int, piece: Piece, reason: Reason, detail: str) -> None:
        self._skipped += 1
        self._deliver(PieceSkipped(number, piece, reason, detail))

    def _deliver(self, event: SpeechEvent) -> None:
        if not self._stop.is_set():
            self._listener(event)

    def _unknown_scripts(self, said: str) -> list[Script]:
        scripts = self._voice.scripts
        return [] if scripts is None else sorted(set(count_scripts(said)) - scripts)
