"""Augmentation of speech, measured on tones and on made-up vowels."""

import numpy as np
import pytest

from examples.digits_omni import augmentation

RATE = 16_000


class Fixed:
    """A generator whose uniform numbers are given, in turn."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high, size=None):
        value = self.values.pop(0)
        assert low <= value <= high
        return value

    def random(self):
        return self.values.pop(0)


def vowel(pitch: float, formant: float, seconds: float = 0.5) -> np.ndarray:
    """Harmonics of `pitch` below an envelope with one peak, in Hz."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = np.arange(pitch, 7000, pitch)
    size = np.exp(-(((harmonics - formant) / 400) ** 2)) + 1e-3
    return sum(s * np.sin(2 * np.pi * h * time) for s, h in zip(size, harmonics, strict=True)).astype(
        np.float32
    )


def peak(samples: np.ndarray) -> float:
    """The frequency with the most energy, smoothed over 300 Hz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
    bins = int(300 / hertz[1])
    return float(hertz[np.argmax(np.convolve(power, np.hanning(bins), "same"))])


def test_the_vocal_tract_moves_formants_and_keeps_the_tempo():
    samples = vowel(120, 1500)
    longer = augmentation.change_speaker(samples, Fixed(0.18, 0.9, 0.0, 0.0))
    assert peak(longer) == pytest.approx(1500 * np.exp(0.18), rel=0.05)
    assert len(longer) == pytest.approx(len(samples), rel=0.03)


@pytest.mark.parametrize(("pitch", "tempo"), [(0.2, 0.0), (0.0, 0.3), (-0.2, 0.3)])
def test_pitch_and_tempo_are_changed_apart(pitch, tempo):
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    changed = augmentation.change_speaker(tone, Fixed(0.0, 0.9, pitch, tempo))
    assert len(changed) == pytest.approx(RATE * np.exp(-tempo), rel=0.05)
    assert peak(changed) == pytest.approx(440 * np.exp(pitch), rel=0.03)


def test_a_room_adds_a_tail_and_keeps_the_direct_sound():
    click = np.zeros(2000)
    click[100] = 1
    heard = augmentation.add_room(click, np.random.default_rng(0))
    assert np.argmax(np.abs(heard)) == 100
    assert 0 < np.abs(heard[2000:]).max() < 0.1


def test_noise_has_the_level_that_is_drawn():
    tone = np.sin(np.arange(RATE) * 0.3)
    levels = []
    for seed in range(20):
        noise = augmentation.add_noise(tone, np.random.default_rng(seed)) - tone
        levels.append(20 * np.log10(np.std(tone) / np.std(noise)))
    assert 8 <= min(levels) < 20
    assert 40 < max(levels) <= 50


def test_a_microphone_limits_the_band_width_at_times():
    noise = np.random.default_rng(0).normal(0, 1, RATE)
    share = []
    for seed in range(20):
        power = np.abs(np.fft.rfft(augmentation.change_microphone(noise, np.random.default_rng(seed)))) ** 2
        share.append(power[7500:].sum() / power.sum())
    assert min(share) < 1e-3
    assert max(share) > 0.02
