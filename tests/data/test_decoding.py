import dataclasses

import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.config import MediaLimits
from ola_jax.data.media import BadMediaError, TimedOutError
from ola_jax.errors import OlaError
from tests.data.clips import display_matrix, tone, write_tracks, write_video
from tests.data.golden_processor import golden_processor
from tests.data.made_up import TINY, tiny_processor


def training(text, **keys):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "ok"}]
    return {"id": "r1", "conversations": turns, **keys}


def with_media(processor, **changes):
    limits = dataclasses.replace(processor.processor_config, media=MediaLimits(**changes))
    return dataclasses.replace(processor, processor_config=limits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_sound_track_of_a_video_is_checked_like_an_audio_file(tmp_path, value):
    samples = tone(16_000, 1.0)
    samples[0, 8000] = value
    write_video(tmp_path / "v.mkv", frames=3, track=samples)
    for keys in ({"video": "v.mkv"}, {"video": "v.mkv", "audio": "v.mkv"}):
        record = training("<speech><image>\nx", **keys)
        with pytest.raises(BadMediaError, match=r"record 'r1': .*v\.mkv: .*not finite"):
            golden_processor().sample(record, str(tmp_path))


def test_decoding_stops_when_audio_leaves_no_room_for_text(tmp_path):
    processor = tiny_processor(max_length=10 * (TINY.chunk_tokens + 1))
    chunk = TINY.chunk_samples
    for chunks in (10, 11):
        soundfile.write(tmp_path / f"{chunks}.wav", np.full(chunks * chunk, 0.25), 16_000)
    assert processor.settings.max_seconds == 10 * chunk / 16_000
    assert len(processor.sample(training("<speech>\nx", audio="10.wav"), str(tmp_path)).audio) == 10
    with pytest.raises(BadMediaError, match=r"11\.wav: the audio is longer than 4 seconds"):
        processor.sample(training("<speech>\nx", audio="11.wav"), str(tmp_path))
    write_tracks(tmp_path / "v.mkv", [tone(16_000, 5.0)], "matroska", "pcm_s16le", [16_000])
    data = (tmp_path / "10.wav").read_bytes()
    (tmp_path / "patch").write_bytes(data * 2)
    joined = {"patch": "patch", "start_num": 0, "size": [len(data)] * 2}
    with pytest.raises(
        BadMediaError, match=r"patch \[bytes .*: the 2 audio items up to here are longer than 4"
    ):
        processor.sample(training("<speech>\nx", audio=joined), str(tmp_path))


def test_a_video_is_decoded_upright(tmp_path):
    write_video(tmp_path / "plain.mp4", frames=3, size=(96, 64))
    turned = display_matrix((tmp_path / "plain.mp4").read_bytes(), (0, 1, -1, 0))
    (tmp_path / "turned.mp4").write_bytes(turned)
    grids = [
        golden_processor().sample(training("<image>\nx", video=name), str(tmp_path)).images[0].grid
        for name in ("plain.mp4", "turned.mp4")
    ]
    assert grids[0] == grids[1][::-1]
    assert grids[0][0] < grids[0][1]


def test_one_frame_is_a_video_if_frames_are_listed(tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "f.png")
    data = (tmp_path / "f.png").read_bytes()
    refs = [["f.png"], {"img_path": "f.png"}, {"img_path": ["f.png"]}]
    refs.append({"patch": "f.png", "start_num": 0, "size": [len(data)]})
    refs.append([{"patch": "f.png", "start_num": 0, "size": len(data)}])
    for ref in refs:
        sample = golden_processor().sample(training("<image>\nx", video=ref), str(tmp_path))
        assert len(sample.images) == 1
    with pytest.raises(OlaError, match=r"f\.png: is a single image, not a video"):
        golden_processor().sample(training("<image>\nx", video="f.png"), str(tmp_path))


def test_an_animated_image_is_a_silent_video(tmp_path):
    pictures = [Image.new("RGB", (96, 64), (50 * i,) * 3) for i in range(4)]
    for name in ("v.webp", "v.gif", "v.png"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=50)
        sample = golden_processor().sample(training("<speech><image>\nx", video=name), str(tmp_path))
        assert len(sample.images) == 4
        assert not len(sample.audio)


def test_the_limits_of_the_config_apply(tmp_path):
    Image.new("RGB", (96, 64)).save(tmp_path / "f.png")
    write_video(tmp_path / "v.mp4", frames=3)
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    for text, keys, changes, message in (
        ("<image>", {"image": "f.png"}, {"image_pixels": 6000}, "image_pixels"),
        ("<image>", {"video": "v.mp4"}, {"frame_pixels": 6000}, "frame_pixels"),
        ("<image>", {"video": "v.mp4"}, {"video_frames": 2}, "video_frames"),
        ("<speech>", {"audio": "a.wav"}, {"audio_seconds": 0.5}, r"longer than 0\.5 seconds"),
        ("<speech>", {"audio": "a.wav"}, {"audio_rates": (20_000, 48_000)}, "expected 20000 to 48000"),
    ):
        processor, record = golden_processor(), training(f"{text}\nx", **keys)
        processor.sample(record, str(tmp_path))
        with pytest.raises(BadMediaError, match=message):
            with_media(processor, **changes).sample(record, str(tmp_path))


def test_media_are_decoded_by_the_given_function(tmp_path):
    calls = []

    def decode(function, *arguments):
        calls.append((function.__name__, arguments[0]))
        return function(*arguments)

    processor = dataclasses.replace(golden_processor(), decode=decode)
    write_video(tmp_path / "v.mp4", frames=3, sound_seconds=0.5)
    processor.sample(training("<speech><image>\nx", video="v.mp4"), str(tmp_path))
    processor.sample(training("text alone"))
    assert calls == [("decode_video", "v.mp4"), ("decode_sound_track", "v.mp4")]


def test_an_isolated_processor_makes_the_same_samples_and_ends_what_takes_too_long(tmp_path):
    Image.new("RGB", (40, 24), (1, 200, 3)).save(tmp_path / "i.png")
    record, processor = training("<image>\nx", image="i.png"), tiny_processor()
    with processor.isolated() as isolated:
        sample = isolated.sample(record, str(tmp_path))
    expected = processor.sample(record, str(tmp_path))
    assert np.array_equal(sample.tokens, expected.tokens)
    assert all(
        np.array_equal(a.patches, b.patches) for a, b in zip(sample.images, expected.images, strict=True)
    )

    write_video(tmp_path / "v.mp4", frames=200)
    with (
        with_media(processor, decode_seconds=1e-4).isolated() as isolated,
        pytest.raises(TimedOutError, match=r"record 'r1': .*decode_seconds\) and was ended"),
    ):
        isolated.sample(training("<image>\nx", video="v.mp4"), str(tmp_path))
