import librosa
import numpy as np
import pytest
import soundfile

from ola_jax.data.audio import chunk, read_audio, read_sound_track
from ola_jax.data.media import Media
from ola_jax.errors import OlaError
from tests.data.clips import write_video
from tests.golden import VISIBLE, arrays, stage


def media(path):
    return Media(str(path), path=str(path))


@pytest.mark.parametrize("name", stage("audio")["meta"])
def test_waveforms_are_the_originals(name):
    golden, meta = arrays("audio.npz"), stage("audio")["meta"][name]
    waveform = read_audio(media(VISIBLE / "inputs" / f"{name}.wav"))
    assert waveform.dtype == np.float32
    assert len(waveform) == meta["n_samples_16k"]
    np.testing.assert_array_equal(waveform[:2000], golden[f"{name}_wav16k_first2000"])
    np.testing.assert_array_equal(waveform[::37], golden[f"{name}_wav16k_s37"])
    chunks = chunk(waveform, 480_000)
    assert list(chunks.shape) == meta["wav_shape"]
    np.testing.assert_array_equal(chunks.ravel()[: len(waveform)], waveform)
    assert not chunks.ravel()[len(waveform) :].any()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_is_read_as_librosa_reads_it(tmp_path, rate):
    samples = np.random.default_rng(rate).uniform(-0.5, 0.5, (rate // 3 + 1, 2))
    soundfile.write(tmp_path / "a.flac", samples, rate)
    expected, _ = librosa.load(tmp_path / "a.flac", sr=16_000)
    np.testing.assert_array_equal(read_audio(media(tmp_path / "a.flac")), expected)


def test_no_chunk_is_dropped():
    waveform = np.arange(30 * 100 + 1, dtype=np.float32)
    chunks = chunk(waveform, 100)
    assert chunks.shape == (31, 100)
    np.testing.assert_array_equal(chunks.ravel()[: len(waveform)], waveform)


def test_the_sound_track_of_a_video_is_heard_as_its_sound_file():
    track = read_audio(media(VISIBLE / "inputs" / "clip.mp4"))
    wav = read_audio(media(VISIBLE / "inputs" / "clip_audio.wav"))
    assert abs(len(track) - len(wav)) < 1600  # a tenth of a second
    length = min(len(track), len(wav)) - 1600  # the end of the file holds samples repeated in writing
    assert np.corrcoef(track[:length], wav[:length])[0, 1] > 0.999


def test_a_silent_video_has_no_sound_track(tmp_path):
    write_video(tmp_path / "silent.mp4", frames=3)
    assert read_sound_track(media(tmp_path / "silent.mp4")) is None
    with pytest.raises(OlaError, match=r"silent\.mp4: has no sound track"):
        read_audio(media(tmp_path / "silent.mp4"))


def test_sound_of_zero_length_is_an_error(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(OlaError, match=r"empty\.wav: the sound has no samples"):
        read_audio(media(tmp_path / "empty.wav"))


def test_samples_that_are_not_finite_are_an_error(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(OlaError, match=r"nan\.wav: the sound has samples that are not finite"):
        read_audio(media(tmp_path / "nan.wav"))


@pytest.mark.parametrize("source", ["img_rgb.png", "clip.mp4"])
def test_a_sound_file_that_is_not_what_its_name_says_is_an_error(tmp_path, source):
    (tmp_path / "sound.wav").write_bytes((VISIBLE / "inputs" / source).read_bytes())
    with pytest.raises(OlaError, match=r"sound\.wav: cannot be read as sound"):
        read_audio(media(tmp_path / "sound.wav"))


@pytest.mark.parametrize("name", ["text.m4a", "text"])
def test_a_file_that_is_no_sound_is_an_error(tmp_path, name):
    (tmp_path / name).write_text("no sound at all\n" * 100)
    with pytest.raises(OlaError, match=f"{name}: cannot be read as sound"):
        read_audio(media(tmp_path / name))
