import jax
import librosa
import numpy as np
import pytest

from ola_jax.audio import kaldi_fbank, log_mel, slaney_filters
from tests import golden

CHUNK = 480_000  # samples of 30 s
FILES = ["a_short", "a_stereo", "a_long", "a_lowrate", "clip_audio"]


def chunks(name: str) -> np.ndarray:
    waveform, _ = librosa.load(golden.VISIBLE / "inputs" / f"{name}.wav", sr=16_000)
    count = -(-len(waveform) // CHUNK)
    return np.pad(waveform, (0, count * CHUNK - len(waveform))).reshape(count, CHUNK)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("feature", "function"), [("logmel", log_mel), ("fbank", kaldi_fbank)])
def test_features_equal_the_originals(name: str, feature: str, function) -> None:
    expected, tolerance = golden.arrays("audio.npz"), golden.stage("audio")["tolerance"]
    key = f"{name}_{feature}"
    actual = np.asarray(jax.jit(function)(chunks(name)))
    kept = expected.get(f"{key}__idx")
    if kept is not None:
        actual = actual[:, kept]
    golden.assert_close(actual, expected[key], tolerance[key], key)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_mel_filters_are_librosas(num_mels: int) -> None:
    expected = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=num_mels)
    np.testing.assert_allclose(slaney_filters(num_mels), expected, atol=1e-8)


def test_frames_follow_from_the_length() -> None:
    waveform = np.zeros(32_000, np.float32)
    assert log_mel(waveform).shape == (200, 128)
    assert kaldi_fbank(waveform).shape == (198, 128)
