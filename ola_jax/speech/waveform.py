"""Audio of a voice made even: silence trimmed, loudness constant."""

from collections.abc import Iterator

import numpy as np

from ola_jax.speech.voice import SPEECH_RATE, Samples

FRAME = SPEECH_RATE // 100  # samples of 10 ms
SILENCE = 10 ** (-45 / 20)  # amplitude (RMS of a frame) below which a frame is silence
MARGIN = 2  # frames of silence that are kept before and after speech
LEVEL_FRAMES = 50  # of speech, from which the loudness of a piece is taken
MAX_GAIN, PEAK = 4.0, 0.98


class Trimmer:
    """Drops the silence before and after the audio of one piece, as it comes; pauses within stay."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._silence: list[Samples] = []  # held back: silence unless speech follows
        self._started = False

    def add(self, samples: Samples) -> Samples:
        """The samples that are certain to stay."""
        samples = np.concatenate([self._rest, samples])
        count = len(samples) // FRAME
        self._rest = samples[count * FRAME :]
        frames = samples[: count * FRAME].reshape(count, FRAME)
        kept: list[Samples] = []
        for frame, level in zip(frames, np.sqrt(np.mean(frames**2, axis=1)), strict=True):
            self._silence.append(frame)
            if level >= SILENCE:
                kept += self._silence if self._started else self._silence[-1 - MARGIN :]
                self._silence, self._started = [], True
            elif not self._started:
                del self._silence[:-MARGIN]
        return np.concatenate(kept) if kept else np.zeros(0, np.float32)

    def finish(self) -> Samples:
        """The margin behind the last speech."""
        if not self._started:
            return np.zeros(0, np.float32)
        return np.concatenate([*self._silence, self._rest])[: MARGIN * FRAME]


def level(samples: Samples) -> float:
    """Loudness: the RMS of the frames that are not silence; 0 without any."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    power = np.mean(frames**2, axis=1)
    power = power[power >= SILENCE**2]
    return float(np.sqrt(power.mean())) if len(power) else 0.0


def even(parts: Iterator[Samples], loudness_db: float) -> Iterator[Samples]:
    """The audio of one piece, trimmed, and brought to a loudness (dB of full scale, RMS of speech).

    The gain is taken from the first half second and stays for the piece, so that audio never waits for the
    piece's end; it is at most 12 dB, and no peak is clipped.
    """
    trimmer, gain = Trimmer(), None
    waiting = np.zeros(0, np.float32)
    for part in parts:
        waiting = np.concatenate([waiting, trimmer.add(part)])
        if gain is None and len(waiting) >= LEVEL_FRAMES * FRAME:
            gain = _gain(waiting, loudness_db)
        if gain is not None and len(waiting):
            yield _amplify(waiting, gain)
            waiting = waiting[:0]
    waiting = np.concatenate([waiting, trimmer.finish()])
    if len(waiting):
        yield _amplify(waiting, _gain(waiting, loudness_db) if gain is None else gain)


def to_pcm16(samples: Samples) -> bytes:
    """16-bit little-endian PCM."""
    return (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()


def _gain(samples: Samples, loudness_db: float) -> float:
    found = level(samples)
    return min(MAX_GAIN, 10 ** (loudness_db / 20) / found) if found else 1.0


def _amplify(samples: Samples, gain: float) -> Samples:
    peak = float(np.abs(samples).max()) * gain
    return (samples * (gain * min(1.0, PEAK / peak) if peak else gain)).astype(np.float32)
