import contextlib
import tracemalloc

import librosa
import numpy as np
import pytest
import soundfile

from ola_jax.config import MediaLimits
from ola_jax.data.audio import read_audio, read_sound_track, split_into_chunks
from ola_jax.data.media import BadMediaError, MediaBytes, MediaFile
from ola_jax.errors import OlaError
from tests.data.clips import damage, tone, write_tracks, write_video
from tests.golden import VISIBLE, arrays, stage


def media(path):
    return MediaFile(str(path), str(path))


@pytest.mark.parametrize("name", stage("audio")["meta"])
def test_waveforms_are_the_originals(name):
    golden, meta = arrays("audio.npz"), stage("audio")["meta"][name]
    waveform = read_audio(media(VISIBLE / "inputs" / f"{name}.wav"))
    assert waveform.dtype == np.float32
    assert len(waveform) == meta["n_samples_16k"]
    np.testing.assert_array_equal(waveform[:2000], golden[f"{name}_wav16k_first2000"])
    np.testing.assert_array_equal(waveform[::37], golden[f"{name}_wav16k_s37"])
    chunks = split_into_chunks(waveform, 480_000)
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
    chunks = split_into_chunks(waveform, 100)
    assert chunks.shape == (31, 100)
    np.testing.assert_array_equal(chunks.ravel()[: len(waveform)], waveform)


def test_the_sound_track_of_a_video_equals_its_audio_file():
    track = read_audio(media(VISIBLE / "inputs" / "clip.mp4"))
    wav = read_audio(media(VISIBLE / "inputs" / "clip_audio.wav"))
    assert abs(len(track) - len(wav)) < 1600  # a tenth of a second
    length = min(len(track), len(wav)) - 1600  # the end of the file holds samples repeated in writing
    assert np.corrcoef(track[:length], wav[:length])[0, 1] > 0.999


def test_a_silent_video_has_no_sound_track(tmp_path):
    write_video(tmp_path / "silent.mp4", frames=3)
    assert read_sound_track(media(tmp_path / "silent.mp4")) is None
    with pytest.raises(OlaError, match=r"silent\.mp4: has no audio; expected an audio file"):
        read_audio(media(tmp_path / "silent.mp4"))


def test_audio_of_zero_length_is_an_error(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(OlaError, match=r"empty\.wav: the audio has no samples"):
        read_audio(media(tmp_path / "empty.wav"))


def test_samples_that_are_not_finite_are_an_error(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(OlaError, match=r"nan\.wav: the audio has samples that are not finite"):
        read_audio(media(tmp_path / "nan.wav"))


def test_an_image_with_the_name_of_an_audio_file_is_an_error(tmp_path):
    (tmp_path / "audio.wav").write_bytes((VISIBLE / "inputs" / "img_rgb.png").read_bytes())
    with pytest.raises(OlaError, match=r"audio\.wav: cannot be read as audio \(it is an image\)"):
        read_audio(media(tmp_path / "audio.wav"))


@pytest.mark.parametrize(
    "name", ["a.mp3", "a.wav", "a.raw", "12:30.mp3", "%03d.m4a", "http:a", "ä\udcff.m4a"]
)
def test_the_content_of_a_file_matters_and_not_its_name(tmp_path, name):
    for source in ("clip.mp4", "a_stereo.wav"):
        data = (VISIBLE / "inputs" / source).read_bytes()
        (tmp_path / name).write_bytes(data)
        expected = read_audio(media(VISIBLE / "inputs" / source))
        np.testing.assert_array_equal(read_audio(media(tmp_path / name)), expected)
        np.testing.assert_array_equal(read_audio(MediaBytes("bytes", data)), expected)


@pytest.mark.parametrize("name", ["text.m4a", "text"])
def test_a_file_that_is_not_audio_is_an_error(tmp_path, name):
    (tmp_path / name).write_text("no audio at all\n" * 100)
    with pytest.raises(OlaError, match=f"{name}: cannot be read as audio"):
        read_audio(media(tmp_path / name))


def pitch(waveform):
    """The strongest tone, in Hz."""
    return np.argmax(np.abs(np.fft.rfft(waveform))) * 16_000 / len(waveform)


@pytest.mark.parametrize("rates", [(44_100, 22_050), (8_000, 48_000, 16_000)])
@pytest.mark.parametrize("channels", [(1,), (2, 1)])
def test_a_change_of_rate_or_of_channels_within_a_track_is_followed(tmp_path, rates, channels):
    parts = []
    for number, rate in enumerate(rates):
        file = tmp_path / f"{number}.aac"
        write_tracks(file, [tone(rate, 1.0, channels[number % len(channels)])], "adts", "aac", [rate])
        parts.append(file.read_bytes())
    (tmp_path / "joined.aac").write_bytes(b"".join(parts))
    waveform = read_audio(media(tmp_path / "joined.aac"))
    assert abs(len(waveform) - 16_000 * len(rates)) < 2500 * len(rates)  # encoders pad
    for start in range(0, 16_000 * len(rates) - 4000, 4000):
        assert pitch(waveform[start + 1000 : start + 4000]) == pytest.approx(440, abs=6)


def test_audio_of_an_encoder_that_doubles_the_rate_keeps_its_length(tmp_path):
    """The container of HE-AAC may say half the rate that is decoded."""
    rate = 44_100
    write_tracks(tmp_path / "a.mp4", [tone(rate, 1.0)], "mp4", "aac", [rate])
    data = (tmp_path / "a.mp4").read_bytes()
    claims = data.index(b"mp4a") + 4 + 24  # the rate of the sample entry, 16.16 bits
    (tmp_path / "b.mp4").write_bytes(data[:claims] + (22_050 << 16).to_bytes(4, "big") + data[claims + 4 :])
    waveform = read_audio(media(tmp_path / "b.mp4"))
    np.testing.assert_array_equal(waveform, read_audio(media(tmp_path / "a.mp4")))


def test_the_first_track_that_can_be_decoded_is_read(tmp_path):
    low, high = tone(16_000, 1.0, pitch=440), tone(16_000, 1.0, pitch=880)
    write_tracks(tmp_path / "two.mp4", [low, high], "mp4", "aac", [16_000, 16_000])
    assert pitch(read_audio(media(tmp_path / "two.mp4"))) == pytest.approx(440, abs=3)
    data = (tmp_path / "two.mp4").read_bytes()
    one = data.replace(b"mp4a", b"zzzz", 1).replace(b"esds", b"zzzz", 1)
    for read in (read_audio, read_sound_track):
        assert pitch(read(MediaBytes("one", one))) == pytest.approx(880, abs=3)
        with pytest.raises(BadMediaError, match="its audio is in a format that cannot be decoded"):
            read(MediaBytes("none", data.replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz")))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_samples_that_are_not_finite_are_refused_in_any_container(tmp_path, rate, value):
    samples = tone(rate, 1.5)
    samples[0, rate] = value
    write_tracks(tmp_path / "v.mkv", [samples], "matroska", "pcm_f32le", [rate])
    soundfile.write(tmp_path / "a.wav", samples.T, rate, subtype="FLOAT")
    for file, read in (("v.mkv", read_sound_track), ("v.mkv", read_audio), ("a.wav", read_audio)):
        with pytest.raises(BadMediaError, match="has samples that are not finite"):
            read(media(tmp_path / file))


def test_a_mean_of_channels_that_is_not_finite_is_refused(tmp_path):
    samples = np.full((100, 2), 3e38, np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(BadMediaError, match="not finite"):
        read_audio(media(tmp_path / "a.wav"))


def test_a_flac_file_that_does_not_say_its_length_is_read(tmp_path):
    samples = tone(16_000, 1.0)[0]
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # the 36 bits of the number of samples
    (tmp_path / "b.flac").write_bytes(data)
    expected = read_audio(media(tmp_path / "a.flac"))
    np.testing.assert_array_equal(read_audio(media(tmp_path / "b.flac")), expected)
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4  # 256 GiB of float samples
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_audio(MediaBytes("c", bytes(data))), expected)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claim", [0, 100, 2**31, 2**32 - 1])
def test_the_length_that_a_wav_header_claims_takes_no_memory(tmp_path, claim):
    soundfile.write(tmp_path / "a.wav", tone(16_000, 1.0)[0], 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = claim.to_bytes(4, "little")
    tracemalloc.start()
    try:
        with contextlib.suppress(BadMediaError):
            assert len(read_audio(MediaBytes("a.wav", bytes(data)))) <= 16_000
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rate", [1, 999, 800_000])
def test_implausible_sample_rates_are_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    with pytest.raises(BadMediaError, match=rf"{rate} samples per second; expected 1000 to 768000"):
        read_audio(media(tmp_path / "a.wav"))
    for accepted in (1000, 768_000):
        soundfile.write(tmp_path / "b.wav", np.zeros(1000), accepted)
        assert len(read_audio(media(tmp_path / "b.wav")))


def test_decoding_stops_when_audio_is_too_long(tmp_path):
    """Three hours in a small file."""
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 8000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(60 * 8000, np.int16))
    write_tracks(
        tmp_path / "long.mkv", [np.zeros((1, 8000 * 60), np.float32)], "matroska", "pcm_s16le", [8000]
    )
    tracemalloc.start()
    try:
        with pytest.raises(BadMediaError, match=r"long\.flac: the audio is longer than 90 seconds"):
            read_audio(media(tmp_path / "long.flac"), max_seconds=90.0)
        assert tracemalloc.get_traced_memory()[1] < 30e6
        with pytest.raises(BadMediaError, match=r"long\.mkv: the audio is longer than 50 seconds"):
            read_sound_track(media(tmp_path / "long.mkv"), MediaLimits(audio_seconds=50.0))
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert len(read_audio(media(tmp_path / "long.mkv"), MediaLimits(audio_seconds=60.0))) == 60 * 16_000


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 192_000])
def test_long_audio_is_resampled_as_if_in_one_piece(tmp_path, rate):
    samples = np.random.default_rng(rate).uniform(-0.5, 0.5, (700_001, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    complete = librosa.resample(samples.mean(axis=1), orig_sr=rate, target_sr=16_000, res_type="soxr_hq")
    np.testing.assert_array_equal(read_audio(media(tmp_path / "a.wav")), complete)
    write_tracks(tmp_path / "a.mkv", [samples.T], "matroska", "pcm_f32le", [rate])
    np.testing.assert_array_equal(read_sound_track(media(tmp_path / "a.mkv")), complete)


def test_a_truncated_file_is_read_to_its_end(tmp_path):
    """Decodes with libsndfile, which the original uses."""
    for suffix, form, codec in (("aac", "adts", "aac"), ("mkv", "matroska", "aac")):
        file = tmp_path / f"a.{suffix}"
        write_tracks(file, [tone(16_000, 4.0)], form, codec, [16_000])
        data = file.read_bytes()
        waveform = read_audio(MediaBytes("cut", data[: len(data) // 2]))
        assert 16_000 < len(waveform) < 3 * 16_000
        assert pitch(waveform[2000:16_000]) == pytest.approx(440, abs=3)
    soundfile.write(tmp_path / "a.wav", tone(16_000, 4.0)[0], 16_000)
    data = (tmp_path / "a.wav").read_bytes()
    assert len(read_audio(MediaBytes("cut", data[: len(data) // 2]))) == pytest.approx(2 * 16_000, abs=50)


@pytest.mark.parametrize(("form", "codec"), [("mp4", "aac"), ("mp4", "alac"), ("adts", "aac")])
def test_undecodable_packets_in_the_middle_are_an_error(tmp_path, form, codec):
    write_tracks(tmp_path / "a", [tone(48_000, 4.0)], form, codec, [48_000])
    data = (tmp_path / "a").read_bytes()
    assert len(read_audio(MediaBytes("complete", data))) >= 64_000
    with pytest.raises(BadMediaError, match=r"damaged: cannot be read as audio \(Invalid data found"):
        read_audio(MediaBytes("damaged", damage(data, 0.4, 0.6)))


@pytest.mark.parametrize(
    "kinds", [("VORBIS", "VORBIS"), ("OPUS", "OPUS"), ("OPUS", "VORBIS"), ("MP3", "MP3")]
)
def test_concatenated_files_are_read_to_the_end_if_asked(tmp_path, kinds):
    parts, file = [], tmp_path / "part"
    for pitch_hz, kind in zip((440, 880), kinds, strict=True):
        form = {"format": "MP3"} if kind == "MP3" else {"format": "OGG", "subtype": kind}
        soundfile.write(file, tone(48_000, 1.0, pitch=pitch_hz)[0], 48_000, **form)
        parts.append(file.read_bytes())
    file.write_bytes(b"".join(parts))
    for joined in (MediaBytes("chained", file.read_bytes()), media(file)):
        first = read_audio(joined)  # the original's libsndfile may end after the first
        assert pitch(first[2000:14_000]) == pytest.approx(440, abs=3)
        complete = read_audio(joined, MediaLimits(joined_audio=True))
        assert abs(len(complete) - 32_000) < 2500
        assert pitch(complete[2000:14_000]) == pytest.approx(440, abs=3)
        assert pitch(complete[18_000:30_000]) == pytest.approx(880, abs=3)
        if kinds[0] != "MP3":
            assert len(first) == 16_000
            assert len(complete) == 32_000


@pytest.mark.parametrize("channels", [3, 6, 9, 17, 64])
def test_any_number_of_channels_is_averaged(tmp_path, channels):
    samples = np.random.default_rng(channels).uniform(-0.5, 0.5, (5000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    for waveform in (read_audio(media(tmp_path / "a.wav")), read_sound_track(media(tmp_path / "a.wav"))):
        np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "FLAC"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_samples_of_16_bits_are_those_of_libsndfile_averaged(tmp_path, form, channels):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (90_000, channels)).astype(np.int16)
    samples[:2] = [[-(2**15)] * channels, [2**15 - 1] * channels]
    soundfile.write(tmp_path / "a", samples, 16_000, "PCM_16", format=form)
    expected = soundfile.read(tmp_path / "a", dtype="float32", always_2d=True)[0].mean(axis=1)
    found = read_audio(MediaFile("a", str(tmp_path / "a")))
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("block", [1000, 2**18])
def test_a_track_is_the_same_in_blocks_of_any_size(tmp_path, block, monkeypatch):
    monkeypatch.setattr("ola_jax.data.audio.BLOCK", block)
    write_tracks(tmp_path / "a.wav", [tone(44_100, 0.5, channels=2)], "wav", "pcm_s16le", [44_100])
    media = MediaFile("a", str(tmp_path / "a.wav"))
    assert read_sound_track(media).tobytes() == read_audio(media).tobytes()
