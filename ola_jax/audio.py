"""Log-mel and Kaldi filterbank features in jnp: 16 kHz waveforms in, frames out."""

import jax.numpy as jnp
import numpy as np

from ola_jax.config import SAMPLE_RATE
from ola_jax.typing import Array, Float

HOP = 160  # samples between frames (10 ms)
WINDOW = 400  # samples of a frame (25 ms)
KALDI_FFT = 512  # samples of a frame after zero padding


def log_mel(waveform: Float[Array, "*b T"], num_mels: int = 128) -> Float[Array, "*b F M"]:
    """Whisper's log-mel spectrogram of each waveform, F = T / 160 mel frames.

    Each waveform is clamped to 8 (log10) below its own maximum. Zeros as padding are part of the
    waveform, as in the original. Source: openai/whisper audio.py, quirk S2.
    """
    padded = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(WINDOW // 2, WINDOW // 2)], mode="reflect")
    frames = _frames(padded, WINDOW)[..., :-1, :]
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW))
    mel = _power(frames * jnp.float32(window), WINDOW) @ slaney_filters(num_mels).T
    log = jnp.log10(jnp.maximum(mel, 1e-10))
    log = jnp.maximum(log, log.max(axis=(-2, -1), keepdims=True) - 8.0)
    return (log + 4.0) / 4.0


def kaldi_fbank(waveform: Float[Array, "*b T"], num_mels: int = 128) -> Float[Array, "*b F M"]:
    """Kaldi's log filterbank energies of each waveform, F = 1 + (T - 400) // 160 frames.

    The waveform is taken in 16-bit units (times 2 ** 15), frames lose their mean, are
    pre-emphasised (0.97) and windowed (Povey). Source: BEATs preprocess, quirk S3; not normalised.
    """
    frames = _frames(waveform * 2.0**15, WINDOW)
    frames = frames - frames.mean(axis=-1, keepdims=True)
    before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    power = _power((frames - 0.97 * before) * jnp.float32(window), KALDI_FFT)
    return jnp.log(jnp.maximum(power @ kaldi_filters(num_mels).T, np.finfo(np.float32).eps))


def _frames(waveform: Float[Array, "*b T"], size: int) -> Float[Array, "*b F size"]:
    count = 1 + (waveform.shape[-1] - size) // HOP
    return waveform[..., np.arange(count)[:, None] * HOP + np.arange(size)]


def _power(frames: Float[Array, "*b F size"], fft_size: int) -> Float[Array, "*b F bins"]:
    return jnp.abs(jnp.fft.rfft(frames, n=fft_size)) ** 2


def slaney_filters(num_mels: int, fft_size: int = WINDOW) -> Float[np.ndarray, "M bins"]:
    """Triangular mel filters of unit area on Slaney's scale (linear below 1 kHz), as librosa's."""
    step = 200 / 3  # Hz a mel, below 1 kHz
    ratio = np.log(6.4) / 27  # of neighbouring frequencies in log, above

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, step * mel, 1000.0 * np.exp(ratio * (mel - 15)))

    top = 15 + np.log(SAMPLE_RATE / 2 / 1000.0) / ratio
    edges = to_hz(np.linspace(0, top, num_mels + 2))
    bins = np.fft.rfftfreq(fft_size, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def kaldi_filters(num_mels: int, low: float = 20.0) -> Float[np.ndarray, "M bins"]:
    """Triangular filters of unit height on the HTK mel scale from `low` Hz to 8 kHz, as Kaldi's."""
    to_mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)
    edges = np.linspace(to_mel(low), to_mel(SAMPLE_RATE / 2), num_mels + 2)
    bins = to_mel(np.arange(KALDI_FFT // 2) * SAMPLE_RATE / KALDI_FFT)  # the Nyquist bin has no weight
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.pad(triangles, ((0, 0), (0, 1))).astype(np.float32)
