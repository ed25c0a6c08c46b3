"""Any Python function as a voice."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import soxr

from ola_jax.speech.language import Script
from ola_jax.speech.voice import SPEECH_RATE, Samples, VoiceError


class CallableVoice:
    """A voice from a function of a text that returns or yields float samples, mono, at `rate` Hz."""

    def __init__(
        self,
        function: Callable[[str], np.ndarray | Iterable[np.ndarray]],
        *,
        name: str = "function",
        rate: int = SPEECH_RATE,
        scripts: frozenset[Script] | None = None,
    ):
        self._function, self._rate = function, rate
        self.name, self.scripts = name, scripts

    def speak(self, text: str) -> Iterator[Samples]:
        """Parts as the function yields them, at SPEECH_RATE."""
        try:
            found = self._function(text)
            parts = [found] if isinstance(found, np.ndarray) else found
            yield from resampled((self._checked(part) for part in parts), self._rate)
        except VoiceError:
            raise
        except Exception as error:
            raise VoiceError(f"{self.name}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Nothing is held open."""

    def _checked(self, part: np.ndarray) -> Samples:
        part = np.asarray(part, np.float32)
        if part.ndim != 1 or not np.isfinite(part).all():
            raise VoiceError(f"{self.name}: expected finite samples of one channel, found shape {part.shape}")
        return part


def resampled(parts: Iterable[Samples], rate: int) -> Iterator[Samples]:
    """Audio of another rate at SPEECH_RATE, part by part and without seams."""
    if rate == SPEECH_RATE:
        yield from parts
        return
    stream = soxr.ResampleStream(rate, SPEECH_RATE, 1, dtype="float32")
    for part in parts:
        if len(out := stream.resample_chunk(part)):
            yield out
    if len(out := stream.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield out
