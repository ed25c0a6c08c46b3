"""Log-mel and Kaldi filterbank features of 16 kHz waveforms, in jnp."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.config import HOP, SAMPLE_RATE, WINDOW
from ola_jax.sharding import platform
from ola_jax.typing import Array, Float, HostArray

KALDI_FFT = 512  # samples of a frame after zero padding
Transform = Literal["auto", "fft", "products"]


def log_mel(
    waveform: Float[Array, "*b T"], num_mels: int = 128, transform: Transform = "auto"
) -> Float[Array, "*b F M"]:
    """Whisper's log-mel spectrogram of each waveform, F = T / 160 mel frames.

    Each waveform is clamped to 8 (log10) below its own maximum. Zeros as padding are part of the
    waveform, as in the original. Source: openai/whisper audio.py, quirk S2.

    `transform` computes frequencies from frames: "products" with matrices of sines and cosines, or
    "fft". "auto" is products on TPUs, where the FFT is slow to run and to compile, otherwise the FFT.
    """
    padded = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(WINDOW // 2, WINDOW // 2)], mode="reflect")
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW))
    frames = _frames(padded)[..., :-1, :] * jnp.float32(window)
    mel = _mel_energies(frames, slaney_filters(num_mels), WINDOW, transform)
    log = jnp.log10(jnp.maximum(mel, 1e-10))
    log = jnp.maximum(log, log.max(axis=(-2, -1), keepdims=True) - 8.0)
    return (log + 4.0) / 4.0


def kaldi_fbank(
    waveform: Float[Array, "*b T"], num_mels: int = 128, transform: Transform = "auto"
) -> Float[Array, "*b F M"]:
    """Kaldi's log filterbank energies of each waveform, F = 1 + (T - 400) // 160 frames.

    The waveform is scaled to 16-bit units (times 2 ** 15); the mean of each frame is subtracted, then
    the frame is pre-emphasised (0.97) and windowed (Povey). Source: BEATs preprocess, without its
    normalisation. `transform` as in `log_mel`.
    """
    frames = _frames(waveform * 2.0**15)
    frames = frames - frames.mean(axis=-1, keepdims=True)
    previous = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    frames = (frames - 0.97 * previous) * jnp.float32(window)
    mel = _mel_energies(frames, kaldi_filters(num_mels), KALDI_FFT, transform)
    return jnp.log(jnp.maximum(mel, np.finfo(np.float32).eps))


def _frames(waveform: Float[Array, "*b T"]) -> Float[Array, "*b F window"]:
    """Frames: number i joins hops i, i + 1 and the first half of i + 2, as slices instead of a gather."""
    count = 1 + (waveform.shape[-1] - WINDOW) // HOP
    hops = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, 2 * HOP)])[..., : (count + 2) * HOP]
    hops = hops.reshape(*waveform.shape[:-1], count + 2, HOP)
    parts = hops[..., :-2, :], hops[..., 1:-1, :], hops[..., 2:, : WINDOW - 2 * HOP]
    return jnp.concatenate(parts, axis=-1)


def _mel_energies(
    frames: Float[Array, "*b F window"],
    filters: Float[HostArray, "M bins"],
    fft_size: int,
    transform: Transform,
) -> Float[Array, "*b F M"]:
    """Squared amplitudes of the frequencies of windowed frames, summed by the filters."""
    if transform == "auto":
        transform = "products" if platform() == "tpu" else "fft"
    if transform == "fft":
        return _product(jnp.abs(jnp.fft.rfft(frames, n=fft_size)) ** 2, filters.T)

    # One radix-4 step of an FFT, then matrices: half the work of matrices alone, and a quarter of the
    # terms in each sum, hence less rounding.
    quarter = fft_size // 4
    frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(0, fft_size - WINDOW)])
    a, b, c, d = jnp.split(frames, 4, axis=-1)

    def waves(x: Array, bins: HostArray) -> tuple[Array, Array]:
        """Products with the cosines and the sines of these frequencies."""
        angles = 2 * np.pi * np.outer(np.arange(quarter), bins) / fft_size
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
        cosines, sines = jnp.split(_product(x, both), 2, axis=-1)
        return cosines, sines

    by_four, by_two = np.arange(0, fft_size // 2 + 1, 4), np.arange(2, fft_size // 2 + 1, 4)
    odd = np.arange(1, fft_size, 4)  # 1, 5, ...; the upper half mirrors 3, 7, ...
    energies = [re**2 + im**2 for re, im in (waves(a + b + c + d, by_four), waves(a - b + c - d, by_two))]
    (re, im), (re_late, im_late) = waves(a - c, odd), waves(b - d, odd)
    energies.append((re - im_late) ** 2 + (im + re_late) ** 2)
    bins = np.concatenate([by_four, by_two, np.minimum(odd, fft_size - odd)])
    return _product(jnp.concatenate(energies, axis=-1), filters[:, bins].T)


def _product(x: Float[Array, "*b F n"], matrix: Float[HostArray, "n m"]) -> Float[Array, "*b F m"]:
    """Product in full float32 on every device, as quiet frequencies are next to loud ones."""
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def slaney_filters(num_mels: int, fft_size: int = WINDOW) -> Float[HostArray, "M bins"]:
    """Triangular mel filters of unit area on Slaney's scale (linear below 1 kHz), as librosa's."""
    step = 200 / 3  # Hz per mel, below 1 kHz
    ratio = np.log(6.4) / 27  # log ratio of neighbouring frequencies, above

    def to_hz(mel: HostArray) -> HostArray:
        return np.where(mel < 15, step * mel, 1000.0 * np.exp(ratio * (mel - 15)))

    top = 15 + np.log(SAMPLE_RATE / 2 / 1000.0) / ratio
    edges = to_hz(np.linspace(0, top, num_mels + 2))
    bins = np.fft.rfftfreq(fft_size, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def kaldi_filters(num_mels: int, low: float = 20.0) -> Float[HostArray, "M bins"]:
    """Triangular filters of unit height on the HTK mel scale from `low` Hz to 8 kHz, as Kaldi's."""
    to_mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)
    edges = np.linspace(to_mel(low), to_mel(SAMPLE_RATE / 2), num_mels + 2)
    bins = to_mel(np.arange(KALDI_FFT // 2) * SAMPLE_RATE / KALDI_FFT)  # the Nyquist bin has no weight
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.pad(triangles, ((0, 0), (0, 1))).astype(np.float32)
