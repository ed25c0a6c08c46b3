import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from ola_jax.models.spectrogram import kaldi_fbank, log_mel, slaney_filters
from tests import golden

CHUNK = 480_000  # samples of 30 s
FILES = ["a_short", "a_stereo", "a_long", "a_lowrate", "clip_audio"]


@functools.cache
def compiled(function: Callable, transform: str) -> Callable:
    return jax.jit(lambda waveforms: function(waveforms, transform=transform))


def chunks(name: str) -> np.ndarray:
    waveform, _ = librosa.load(golden.VISIBLE / "inputs" / f"{name}.wav", sr=16_000)
    count = -(-len(waveform) // CHUNK)
    return np.pad(waveform, (0, count * CHUNK - len(waveform))).reshape(count, CHUNK)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("transform", ["fft", "products"])
@pytest.mark.parametrize(("feature", "function"), [("logmel", log_mel), ("fbank", kaldi_fbank)])
def test_features_equal_the_originals(name: str, feature: str, function, transform: str) -> None:
    expected, tolerance = golden.arrays("audio.npz"), golden.stage("audio")["tolerance"]
    key = f"{name}_{feature}"
    actual = np.asarray(compiled(function, transform)(chunks(name)))
    kept = expected.get(f"{key}__idx")
    if kept is not None:
        actual = actual[:, kept]
    golden.assert_close(actual, expected[key], tolerance[key], key)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_mel_filters_equal_those_of_librosa(num_mels: int) -> None:
    expected = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=num_mels)
    np.testing.assert_allclose(slaney_filters(num_mels), expected, atol=1e-8)


def test_the_length_determines_the_number_of_frames() -> None:
    waveform = jnp.zeros(32_000)
    assert log_mel(waveform).shape == (200, 128)
    assert kaldi_fbank(waveform).shape == (198, 128)


@pytest.mark.parametrize("length", [400, 559, 560, 719, 4000, 4079])
def test_every_sample_is_in_its_frames(length: int) -> None:
    """A click at the middle of frame i is loudest there; incomplete frames are left out."""
    count = 1 + (length - 400) // 160
    waveforms = np.zeros((count, length), np.float32)
    waveforms[np.arange(count), np.arange(count) * 160 + 200] = 1
    for transform in ("fft", "products"):
        energy = kaldi_fbank(jnp.asarray(waveforms), transform=transform).sum(axis=-1)
        assert energy.shape == (count, count)
        np.testing.assert_array_equal(energy.argmax(axis=1), np.arange(count))


def test_on_a_tpu_products_replace_the_fft() -> None:
    device = AbstractDevice(device_kind="TPU v5", num_cores=1, platform="tpu")
    mesh = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=device)
    waveform = jnp.zeros(4000)
    assert "fft" in str(jax.make_jaxpr(log_mel)(waveform))
    with jax.sharding.use_abstract_mesh(mesh):
        assert "fft" not in str(jax.make_jaxpr(log_mel)(waveform))
