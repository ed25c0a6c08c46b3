"""Silence trimmed and loudness made constant, as audio comes."""

import numpy as np
import pytest

from ola_jax.speech.voice import SPEECH_RATE
from ola_jax.speech.waveform import FRAME, MARGIN, even, level, to_pcm16


def tone(seconds: float, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 220 * np.arange(int(seconds * SPEECH_RATE)) / SPEECH_RATE)).astype(
        np.float32
    )


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SPEECH_RATE), np.float32)


def run(samples: np.ndarray, step: int) -> np.ndarray:
    parts = [samples[i : i + step] for i in range(0, len(samples), step)]
    out = list(even(iter(parts), -20.0))
    return np.concatenate(out) if out else silence(0)


@pytest.mark.parametrize("step", [10_000_000, 4800, 777])
def test_silence_around_speech_goes_and_within_it_stays(step: int) -> None:
    speech = np.concatenate([tone(0.5), silence(0.4), tone(0.5)])
    out = run(np.concatenate([silence(0.33), speech, silence(0.47)]), step)
    assert abs(len(out) - len(speech)) <= (2 * MARGIN + 1) * FRAME
    middle = out[int(0.6 * SPEECH_RATE) : int(0.8 * SPEECH_RATE)]
    assert not middle.any()


@pytest.mark.parametrize("amplitude", [0.05, 0.1, 0.4, 0.9])
def test_loudness_is_constant(amplitude: float) -> None:
    out = run(tone(1.0, amplitude), 4800)
    assert 20 * np.log10(level(out)) == pytest.approx(-20, abs=0.1)


def test_very_quiet_audio_is_raised_by_12_db_at_most() -> None:
    quiet = tone(1.0, 0.02)
    assert level(run(quiet, 4800)) == pytest.approx(4 * level(quiet), rel=0.01)


def test_peaks_are_not_clipped() -> None:
    peaky = tone(1.0, 0.03)
    peaky[SPEECH_RATE // 2] = 1.0
    assert np.abs(run(peaky, 4800)).max() <= 0.98 + 1e-6


def test_silence_alone_is_nothing() -> None:
    assert len(run(silence(1.0), 4800)) == 0
    assert len(run(silence(0), 4800)) == 0


def test_audio_comes_after_half_a_second_at_the_latest() -> None:
    parts = iter(np.split(tone(3.0), 30))
    first = next(even(parts, -20.0))
    assert len(first) <= 0.6 * SPEECH_RATE


def test_pcm_is_little_endian_and_bounded() -> None:
    assert to_pcm16(np.array([0, 1, -1, 2], np.float32)) == b"\x00\x00\xff\x7f\x01\x80\xff\x7f"
