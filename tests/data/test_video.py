import hashlib
import io
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits, ProcessorConfig
from ola_jax.data.image import video_frame
from ola_jax.data.media import MediaBytes, MediaFile
from ola_jax.data.video import frame_indices, read_frames
from ola_jax.errors import OlaError
from tests.data.clips import display_matrix, write_video
from tests.golden import VISIBLE, arrays, index, stage


def read_whole_frames(items, limits, *media_limits, **options):
    return read_frames(items, limits, *media_limits, **({"reduce": lambda frame: frame} | options))


def media(path):
    return [MediaFile(str(path), str(path))]


ROOT = pathlib.Path(__file__).parents[2]
CLIP = media(VISIBLE / "inputs" / "clip.mp4")


@pytest.mark.parametrize("preset", ["train", "infer"])
def test_every_frame_is_the_originals_bit_for_bit(preset):
    meta, golden = stage("preproc")["meta"][f"video_{preset}"], arrays("preproc.npz")
    limits = getattr(ProcessorConfig(), preset)
    frames, shown = read_whole_frames(CLIP, limits)
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
    _, shown = read_whole_frames(CLIP, limits)
    assert shown == case["frame_idx"]  # all 20 frames are kept, so their places are their numbers


def test_frames_are_sampled_evenly_from_first_to_last():
    assert frame_indices(7, PixelLimits(max_frames=4)) == [0, 2, 4, 6]
    assert frame_indices(3, PixelLimits(max_frames=4)) == [0, 1, 2]
    assert frame_indices(3, PixelLimits(max_frames=4, repeat_frames=True)) == [0, 0, 1, 2]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # Matroska does not store the number of frames
def test_the_frames_asked_for_are_decoded(tmp_path, suffix):
    write_video(tmp_path / f"v.{suffix}", frames=12)
    frames, shown = read_whole_frames(media(tmp_path / f"v.{suffix}"), PixelLimits(max_frames=4))
    levels = [np.asarray(frame).mean() for frame in frames]
    np.testing.assert_allclose(levels, [0, 30, 70, 110], atol=2)
    assert shown == [0, 1, 2, 3]


def test_frames_given_as_images_are_a_video():
    items = [*media(VISIBLE / "inputs" / "img_rgb.png"), *media(VISIBLE / "inputs" / "img_rgba.png")]
    frames, shown = read_whole_frames(items, PixelLimits(max_frames=3, repeat_frames=True))
    assert [frame.size for frame in frames] == [(333, 517), (129, 200)]
    assert {frame.mode for frame in frames} == {"RGB"}
    assert shown == [0, 0, 1]


def test_a_video_without_frames_is_an_error(tmp_path):
    write_video(tmp_path / "empty.mp4", frames=0, sound_seconds=0.5)
    with pytest.raises(OlaError, match=r"empty\.mp4: "):
        read_whole_frames(media(tmp_path / "empty.mp4"), PixelLimits())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("img_rgb.png", "is a single image, not a video"),
        ("a_short.wav", "has no video stream; expected"),
        ("vframe0.png", "is a single image, not a video"),
    ],
)
def test_a_file_that_is_not_a_video_is_an_error(tmp_path, source, reason):
    (tmp_path / "video.mp4").write_bytes((VISIBLE / "inputs" / source).read_bytes())
    with pytest.raises(OlaError, match=rf"video\.mp4: {reason}"):
        read_whole_frames(media(tmp_path / "video.mp4"), PixelLimits())


def test_a_truncated_video_is_an_error(tmp_path):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(OlaError, match=r"cut\.mp4: "):
        read_whole_frames(media(tmp_path / "cut.mp4"), PixelLimits())
    (tmp_path / "text.mp4").write_text("no video\n" * 50)
    with pytest.raises(OlaError, match=r"text\.mp4: cannot be read as a video"):
        read_whole_frames(media(tmp_path / "text.mp4"), PixelLimits())


# Pixels go from (x, y) to (a x + c y, b x + d y), with y downwards.
ORIENTED = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: image.rotate(-90, expand=True),
    (-1, 0, 0, -1): lambda image: image.rotate(180),
    (0, -1, 1, 0): lambda image: image.rotate(90, expand=True),
    (-1, 0, 0, 1): lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    (1, 0, 0, -1): lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    (0, 1, 1, 0): lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    (0, -1, -1, 0): lambda image: image.transpose(Image.Transpose.TRANSVERSE),
}


@pytest.mark.parametrize("matrix", ORIENTED)
def test_frames_are_rotated_and_mirrored_by_the_display_matrix(tmp_path, matrix):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "turned.mp4").write_bytes(display_matrix(data, matrix))
    frames, _ = read_whole_frames(media(tmp_path / "turned.mp4"), PixelLimits())
    plain, _ = read_whole_frames(CLIP, PixelLimits())
    assert len(frames) == len(plain)
    for frame, expected in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(np.asarray(frame), np.asarray(ORIENTED[matrix](expected)))


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (0.7, 0.7, -0.7, 0.7), (1, 1, 1, 1)])
def test_other_display_matrices_are_ignored(tmp_path, matrix):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "turned.mp4").write_bytes(display_matrix(data, matrix))
    frames, _ = read_whole_frames(media(tmp_path / "turned.mp4"), PixelLimits())
    plain, _ = read_whole_frames(CLIP, PixelLimits())
    np.testing.assert_array_equal(np.asarray(frames[0]), np.asarray(plain[0]))


@pytest.mark.parametrize("name", ["12:30.mp4", "http:clip.mp4", "%03d.png", "\udcff.mp4", "clip"])
def test_the_name_of_a_video_does_not_matter(tmp_path, name):
    write_video(tmp_path / "plain.mp4", frames=3)
    data = (tmp_path / "plain.mp4").read_bytes()
    (tmp_path / name).write_bytes(data)
    for items in (media(tmp_path / name), [MediaBytes("bytes", data)]):
        assert len(read_whole_frames(items, PixelLimits())[0]) == 3


def test_tags_need_not_be_utf_8(tmp_path):
    write_video(tmp_path / "plain.avi", frames=3, title="Xberraschung")
    data = (tmp_path / "plain.avi").read_bytes()
    assert b"Xberraschung" in data
    (tmp_path / "latin1.avi").write_bytes(data.replace(b"Xberraschung", b"\xdcberraschung"))
    assert len(read_whole_frames(media(tmp_path / "latin1.avi"), PixelLimits())[0]) == 3


def test_a_playlist_opens_no_other_file(tmp_path):
    write_video(tmp_path / "secret.ts", frames=3)
    lines = [
        "#EXTM3U",
        "#EXT-X-TARGETDURATION:1",
        "#EXTINF:1,",
        str(tmp_path / "secret.ts"),
        "#EXT-X-ENDLIST",
    ]
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    concat = f"ffconcat version 1.0\nfile '{tmp_path}/secret.ts'\n"
    (tmp_path / "list.ffconcat").write_text(concat)
    for name in ("list.m3u8", "list.ffconcat"):
        with pytest.raises(OlaError, match=name):
            read_whole_frames(media(tmp_path / name), PixelLimits())


def animation(kind, count):
    """An encoded animation, whose picture i has grey level 40 * i."""
    pictures = [Image.new("RGB", (40, 24), (40 * i,) * 3) for i in range(count)]
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=50, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_an_animated_image_is_a_video(tmp_path, kind):
    (tmp_path / "moving").write_bytes(animation(kind, 6))
    for items in (media(tmp_path / "moving"), [MediaBytes("bytes", animation(kind, 6))]):
        frames, shown = read_whole_frames(items, PixelLimits(max_frames=3))
        assert [int(np.asarray(frame).mean()) for frame in frames] == [0, 80, 200]
        assert {frame.size for frame in frames} == {(40, 24)}
        assert shown == [0, 1, 2]


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG", "JPEG", "BMP", "TIFF"])
def test_one_image_is_a_video_of_one_frame_if_frames_are_listed(tmp_path, kind):
    Image.new("RGB", (40, 24), (80, 80, 80)).save(tmp_path / "one", kind)
    frames, shown = read_whole_frames(media(tmp_path / "one"), PixelLimits(), single_image=True)
    assert [frame.size for frame in frames] == [(40, 24)]
    assert np.asarray(frames[0]).mean() == pytest.approx(80, abs=1)
    assert shown == [0]
    data = (tmp_path / "one").read_bytes()
    assert len(read_whole_frames([MediaBytes("bytes", data)], PixelLimits())[0]) == 1
    if kind != "GIF":  # a video of one frame
        with pytest.raises(OlaError, match="one: is a single image, not a video"):
            read_whole_frames(media(tmp_path / "one"), PixelLimits())


def test_a_video_whose_size_changes_keeps_that_of_its_first_frame(tmp_path):
    parts = []
    for number, size in enumerate(((96, 64), (48, 96))):
        write_video(tmp_path / f"{number}.ts", frames=4, size=size)
        parts.append((tmp_path / f"{number}.ts").read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    frames, shown = read_whole_frames(media(tmp_path / "joined.ts"), PixelLimits())
    assert len(shown) == 8
    assert {frame.size for frame in frames} == {(96, 64)}


@pytest.mark.parametrize("claim", [1, 5, 11, 13, 1000, 2**31])
def test_a_wrong_number_of_frames_in_the_header_does_not_matter(tmp_path, claim):
    write_video(tmp_path / "v.avi", frames=12)
    data = bytearray((tmp_path / "v.avi").read_bytes())
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):  # of the frame counts in their headers
        place = data.index(chunk) + offset
        data[place : place + 4] = claim.to_bytes(4, "little")
    (tmp_path / "v.avi").write_bytes(data)
    frames, shown = read_whole_frames(media(tmp_path / "v.avi"), PixelLimits(max_frames=4))
    np.testing.assert_allclose([np.asarray(f).mean() for f in frames], [0, 30, 70, 110], atol=2)
    assert shown == [0, 1, 2, 3]


def test_too_many_or_too_large_frames_are_refused(tmp_path):
    write_video(tmp_path / "v.mp4", frames=12)
    with pytest.raises(OlaError, match=r"v\.mp4: more than 11 frames, .* \(video_frames\)"):
        read_whole_frames(media(tmp_path / "v.mp4"), PixelLimits(), MediaLimits(video_frames=11))
    with pytest.raises(OlaError, match=r"v\.mp4: 96x64 pixels, at most 6143 are decoded \(frame_pixels\)"):
        read_whole_frames(media(tmp_path / "v.mp4"), PixelLimits(), MediaLimits(frame_pixels=96 * 64 - 1))
    (tmp_path / "v.webp").write_bytes(animation("WEBP", 3))
    with pytest.raises(OlaError, match=r"v\.webp: more than 2 frames"):
        read_whole_frames(media(tmp_path / "v.webp"), PixelLimits(), MediaLimits(video_frames=2))
    with pytest.raises(OlaError, match=r"v\.webp: 40x24 pixels, at most 100"):
        read_whole_frames(media(tmp_path / "v.webp"), PixelLimits(), MediaLimits(frame_pixels=100))


def test_each_frame_is_reduced_when_it_is_decoded(tmp_path):
    write_video(tmp_path / "v.mkv", frames=12)
    alive, most = set(), 0

    def reduce(frame):
        nonlocal most
        alive.add(id(frame))
        most = max(most, len(alive))
        alive.discard(id(frame))
        return frame.size

    frames, _ = read_whole_frames(media(tmp_path / "v.mkv"), PixelLimits(max_frames=5), reduce=reduce)
    assert frames == [(96, 64)] * 5
    assert most == 1


def test_the_frames_of_a_large_video_are_not_all_in_memory(tmp_path):
    """16 frames of 4K are 400 MB."""
    write_large_video(tmp_path / "4k.mp4", frames=16)
    program = f"""
from ola_jax.config import ProcessorConfig
from ola_jax.data.image import video_frame
from ola_jax.data.media import MediaFile
from ola_jax.data.video import read_frames
from tests.data.mutants import peak_memory
limits = ProcessorConfig().train
before = peak_memory()
file = {str(tmp_path / "4k.mp4")!r}
frames, _ = read_frames([MediaFile(file, file)], limits, reduce=lambda frame: video_frame(frame, limits))
assert len(frames) == 16
print(peak_memory() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) < 250  # MB


def write_large_video(path, frames):
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        video.width, video.height = 3840, 2160
        video.pix_fmt = "yuv420p"
        picture = av.VideoFrame(3840, 2160, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(frames):
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux(video.encode())
