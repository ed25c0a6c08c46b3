"""The default voice: hibari-tts, English, offline after its installation (Apache-2.0)."""

import threading
from collections.abc import Iterator

import numpy as np

from ola_jax.errors import OlaError, require
from ola_jax.speech.language import Script
from ola_jax.speech.voice import Samples, VoiceError

SPEEDS = (0.5, 2.0)  # slowest and fastest that it offers
VOICE = "heart"  # within the package; others are downloaded by it


class HibariVoice:
    """Speaks English, the same text always the same way. Loading and a first text take a second."""

    def __init__(self, *, voice: str = VOICE, speed: float = 1.0, seed: int = 0):
        if not SPEEDS[0] <= speed <= SPEEDS[1]:
            raise OlaError(f"speed is {speed}; expected {SPEEDS[0]} to {SPEEDS[1]}")
        require("speech", "hibari")
        import hibari
        from hibari.voices import VOICES

        if voice not in VOICES:
            raise OlaError(f"voice {voice!r} is none of hibari's: {', '.join(VOICES)}")
        try:
            self._hibari = hibari.Hibari(voice=voice)
        except RuntimeError as error:
            raise OlaError(f"voice {voice!r} cannot be downloaded; {VOICE!r} needs no network") from error
        self._speed, self._seed = speed, seed
        self._lock = threading.Lock()  # its state is not promised to be safe among threads
        self.name = f"hibari/{voice}"
        self._synthesize("Ready.")

    @property
    def scripts(self) -> frozenset[Script]:
        """Latin: it reads everything as English."""
        return frozenset({"latin"})

    def speak(self, text: str) -> Iterator[Samples]:
        """One part a sentence, 24 kHz."""
        for sentence in self._hibari.split_sentences(text):
            samples = self._synthesize(sentence)
            if len(samples):
                yield samples

    def close(self) -> None:
        """Nothing is held open."""

    def _synthesize(self, text: str) -> Samples:
        try:
            with self._lock:
                samples = self._hibari(text, speed=self._speed, seed=self._seed)
        except Exception as error:
            raise VoiceError(f"{self.name}: cannot speak this text ({type(error).__name__})") from error
        return np.asarray(samples, np.float32).reshape(-1)
