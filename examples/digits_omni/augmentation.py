"""Augmentation of speech: other speakers, rooms, microphones and noises than those of the recordings.

Every function takes samples at 16 kHz and a generator, and returns samples at 16 kHz.
"""

import librosa
import numpy as np
import soxr
from scipy import fft, signal

from ola_jax.config import SAMPLE_RATE
from ola_jax.typing import Float, HostArray

Speech = Float[HostArray, "T"]

WINDOW = 512  # samples of a short-time spectrum, 32 ms
ENVELOPE = 13  # bins that its envelope is smoothed over: 400 Hz, more than between harmonics of a voice


def warm_up() -> None:
    """Lets librosa compile what it compiles when first used, which several threads must not do at once."""
    rng = np.random.default_rng(0)
    change_speaker(rng.normal(0, 0.1, 8 * WINDOW).astype(np.float32), rng)


def change_speaker(samples: Speech, rng: np.random.Generator) -> Speech:
    """Changes pitch, the length of the vocal tract (formants), tempo and breathiness."""
    spectrum = librosa.stft(samples, n_fft=WINDOW, hop_length=WINDOW // 4)
    size, phase = np.abs(spectrum), np.angle(spectrum)
    size = size * _move_formants(size, np.exp(rng.uniform(-0.18, 0.18)))
    if rng.random() < 0.3:  # as in a whisper, part of the voice is noise
        noise = rng.uniform(-np.pi, np.pi, phase.shape)
        share = rng.uniform(0.2, 1.0)
        phase = np.angle((1 - share) * np.exp(1j * phase) + share * np.exp(1j * noise))
    pitch, tempo = np.exp(rng.uniform(-0.25, 0.25)), np.exp(rng.uniform(-0.3, 0.3))
    changed = (size * np.exp(1j * phase)).astype(np.complex64)
    # Resampling by `pitch` afterwards changes the tempo as well.
    with np.errstate(invalid="ignore"):  # librosa 1.0 casts memory that it does not use
        changed = librosa.phase_vocoder(changed, rate=tempo / pitch)
    changed = librosa.istft(changed, hop_length=WINDOW // 4, n_fft=WINDOW)
    return soxr.resample(changed, SAMPLE_RATE * pitch, SAMPLE_RATE)


def add_room(samples: Speech, rng: np.random.Generator) -> Speech:
    """Adds the reverberation of a room: noise that decays by 60 dB within 0.1 to 0.5 s."""
    decay = rng.uniform(0.1, 0.5)
    time = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.normal(0, 1, len(time)) * 10 ** (-3 * time / decay)
    response *= 10 ** rng.uniform(-1.2, -0.2) / np.linalg.norm(response)
    response[0] += 1  # the direct path
    return signal.oaconvolve(samples, response)[: len(samples) + SAMPLE_RATE // 10]


def change_microphone(samples: Speech, rng: np.random.Generator) -> Speech:
    """Limits the band width, and colours the spectrum by up to 9 dB an octave band."""
    spectrum = fft.rfft(samples)
    hertz = fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    octaves = np.array([0, 125, 250, 500, 1000, 2000, 4000, 8000])
    decibels = np.interp(hertz, octaves, rng.normal(0, 4, len(octaves)))
    lowest, highest = rng.uniform(20, 300), rng.uniform(3200, 8000)
    if rng.random() < 0.6:
        decibels -= 40 * np.log2(np.maximum(hertz / highest, 1)) + 24 * np.log2(
            np.maximum(lowest / np.maximum(hertz, 1), 1)
        )
    return fft.irfft(spectrum * 10 ** (decibels / 20), len(samples))


def add_noise(samples: Speech, rng: np.random.Generator) -> Speech:
    """Adds noise between white and brown, 8 to 50 dB below the speech."""
    noise = fft.rfft(rng.normal(0, 1, len(samples)))
    hertz = fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    noise = fft.irfft(noise / np.maximum(hertz, 50) ** rng.uniform(0, 1), len(samples))
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-rng.uniform(8, 50) / 20)
    return samples + noise * level / np.sqrt(np.mean(noise**2))


def _move_formants(size: Float[HostArray, "f t"], factor: float) -> Float[HostArray, "f t"]:
    """The gain that stretches the spectral envelope along the frequencies by `factor`."""
    smooth = signal.windows.hann(ENVELOPE)[:, None]
    envelope = np.log(signal.oaconvolve(size**2, smooth / smooth.sum(), mode="same", axes=0).clip(1e-8)) / 2
    bins = np.arange(len(size)) / factor
    low = np.minimum(bins.astype(int), len(size) - 2)
    part = np.minimum(bins - low, 1)[:, None]
    moved = envelope[low] * (1 - part) + envelope[low + 1] * part
    return np.exp(np.clip(moved - envelope, -4, 4))
