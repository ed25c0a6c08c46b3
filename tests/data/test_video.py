import hashlib

import numpy as np
import pytest

from ola_jax.config import PixelLimits, ProcessorConfig
from ola_jax.data.image import video_frame
from ola_jax.data.media import Media
from ola_jax.data.video import frame_indices, read_frames
from ola_jax.errors import OlaError
from tests.data.clips import write_video
from tests.golden import VISIBLE, arrays, index, stage


def media(path):
    return [Media(str(path), path=str(path))]


CLIP = media(VISIBLE / "inputs" / "clip.mp4")


@pytest.mark.parametrize("preset", ["train", "infer"])
def test_every_frame_is_the_originals_to_the_last_bit(preset):
    meta, golden = stage("preproc")["meta"][f"video_{preset}"], arrays("preproc.npz")
    limits = getattr(ProcessorConfig(), preset)
    frames, shown = read_frames(CLIP, limits)
    assert len(frames) == index()["facts"]["video"]["n_frames"]
    assert len(shown) == (limits.max_frames if limits.repeat_frames else len(frames))
    pixels = [np.asarray(video_frame(frame, limits)) for frame in frames]
    for position, place in enumerate(golden[f"video_{preset}_idx"]):
        np.testing.assert_array_equal(pixels[place][::2, ::2], golden[f"video_{preset}_u8_s2"][position])
    hashes = [hashlib.sha256(p.tobytes()).hexdigest() for p in pixels]
    assert hashes == meta["frame_sha256"]


def test_frames_sampled_in_inference_are_the_originals():
    case = next(c for c in index()["cases"] if "frame_idx" in c)
    limits = ProcessorConfig().infer
    assert frame_indices(index()["facts"]["video"]["n_frames"], limits) == case["frame_idx"]
    _, shown = read_frames(CLIP, limits)
    assert shown == case["frame_idx"]  # all 20 frames are kept, so their places are their numbers


def test_frames_are_sampled_evenly_from_first_to_last():
    assert frame_indices(7, PixelLimits(max_frames=4)) == [0, 2, 4, 6]
    assert frame_indices(3, PixelLimits(max_frames=4)) == [0, 1, 2]
    assert frame_indices(3, PixelLimits(max_frames=4, repeat_frames=True)) == [0, 0, 1, 2]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # Matroska does not say how many frames it has
def test_the_frames_asked_for_are_decoded(tmp_path, suffix):
    write_video(tmp_path / f"v.{suffix}", frames=12)
    frames, shown = read_frames(media(tmp_path / f"v.{suffix}"), PixelLimits(max_frames=4))
    levels = [np.asarray(frame).mean() for frame in frames]
    np.testing.assert_allclose(levels, [0, 30, 70, 110], atol=2)
    assert shown == [0, 1, 2, 3]


def test_frames_given_as_images_are_a_video():
    items = [*media(VISIBLE / "inputs" / "img_rgb.png"), *media(VISIBLE / "inputs" / "img_rgba.png")]
    frames, shown = read_frames(items, PixelLimits(max_frames=3, repeat_frames=True))
    assert [frame.size for frame in frames] == [(333, 517), (129, 200)]
    assert {frame.mode for frame in frames} == {"RGB"}
    assert shown == [0, 0, 1]


def test_a_video_without_frames_is_an_error(tmp_path):
    write_video(tmp_path / "empty.mp4", frames=0, sound_seconds=0.5)
    with pytest.raises(OlaError, match=r"empty\.mp4: "):
        read_frames(media(tmp_path / "empty.mp4"), PixelLimits())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("img_rgb.png", "is a single image, not a video"),
        ("a_short.wav", "has no video stream"),
        ("vframe0.png", "is a single image, not a video"),
    ],
)
def test_a_file_that_is_no_video_is_an_error(tmp_path, source, reason):
    (tmp_path / "video.mp4").write_bytes((VISIBLE / "inputs" / source).read_bytes())
    with pytest.raises(OlaError, match=rf"video\.mp4: {reason}"):
        read_frames(media(tmp_path / "video.mp4"), PixelLimits())


def test_a_truncated_video_is_an_error(tmp_path):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(OlaError, match=r"cut\.mp4: "):
        read_frames(media(tmp_path / "cut.mp4"), PixelLimits())
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    with pytest.raises(OlaError, match=r"text\.mp4: cannot be read as a video"):
        read_frames(media(tmp_path / "text.mp4"), PixelLimits())
