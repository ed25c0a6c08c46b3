"""Frames that are decoded from keyframes are those that decoding all frames returns."""

import av
import numpy as np
import pytest

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data import video
from ola_jax.data.media import MediaFile
from ola_jax.data.seeking import Packets, Run
from ola_jax.data.video import measure_video, read_frames
from ola_jax.errors import OlaError


def write(path, frames, codec="libx264", size=(64, 48), cut=None, **options):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            moved = np.roll(base, number, axis=1)
            moved[: number % size[1]] //= 2
            frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return MediaFile(str(path), str(path))


def frames(media, count):
    found, shown = read_frames([media], PixelLimits(max_frames=count), MediaLimits(), reduce=np.asarray)
    return np.stack(found), shown


@pytest.fixture
def sparse(monkeypatch):
    """The results of decoding sparsely: the number of frames, or None."""
    results, original = [], video._decode_sparsely
    record = lambda *args: results.append(original(*args)) or results[-1]
    monkeypatch.setattr(video, "_decode_sparsely", record)
    return results


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": 12}),
        ("a.mp4", "libx264", {"g": 12, "bf": 3, "x264-params": "open-gop=1"}),
        ("a.mp4", "libx264", {"g": 15, "bf": 0, "sc_threshold": 0}),
        ("a.mov", "libx264", {"g": 12, "bf": 4, "refs": 5}),
        ("a.mp4", "libx265", {"g": 12, "x265-params": "log-level=none:open-gop=1:keyint=12"}),
        ("a.mp4", "mpeg4", {"g": 12, "bf": 2}),
        ("a.mp4", "libvpx-vp9", {"g": 12, "cpu-used": 8}),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_are_those_of_decoding_everything(tmp_path, monkeypatch, sparse, name, codec, options, count):
    media = write(tmp_path / name, 240, codec, **options)
    found, shown = frames(media, count)
    assert sparse[0] is not None
    monkeypatch.setattr(video, "_decode_sparsely", lambda *_: None)
    expected, expected_shown = frames(media, count)
    assert shown == expected_shown
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "frame_count", "options"), [("a.mp4", 60, {"g": 250}), ("a.mkv", 240, {"g": 12})]
)
def test_everything_is_decoded_where_keyframes_do_not_help(tmp_path, sparse, name, frame_count, options):
    found, _ = frames(write(tmp_path / name, frame_count, **options), 5)
    assert sparse == [None]
    assert len(found) == 5


def test_a_video_that_breaks_where_it_is_decoded_is_decoded_from_its_beginning(tmp_path, sparse):
    media = write(tmp_path / "a.mp4", 240, g=12)
    data = (tmp_path / "a.mp4").read_bytes()
    with av.open(media.path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        begin, size = packets[120].pos, sum(packet.size for packet in packets[120:])
    (tmp_path / "a.mp4").write_bytes(data[:begin] + b"\0" * size + data[begin + size :])
    with pytest.raises(OlaError, match="cannot be read as a video"):
        frames(media, 5)
    assert sparse == [None]


@pytest.mark.parametrize(
    ("table", "claim", "there"),
    [("stts", 150, 240), ("stts", 400, 240), ("stts", 2**31, 240), ("stsz", 150, 150), ("stsz", 3, 3)],
)
def test_frames_are_chosen_among_those_that_are_there(tmp_path, sparse, table, claim, there):
    """Whatever the tables of the header claim: of times of frames, or of their sizes."""
    media = write(tmp_path / "a.mp4", 240, g=12)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    place = data.index(table.encode()) + 12
    assert data[place : place + 4] == (240).to_bytes(4)
    data[place : place + 4] = claim.to_bytes(4)
    (tmp_path / "a.mp4").write_bytes(data)
    with av.open(media.path) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == there
    found, shown = frames(media, 5)
    chosen = video.frame_indices(there, PixelLimits(max_frames=5))
    assert sparse == [None]  # all were decoded, and counted
    assert len(shown) == len(chosen)
    np.testing.assert_array_equal(found, np.stack([decoded[index] for index in chosen]))
    count, size = measure_video(media, PixelLimits(max_frames=5))
    assert (count, size) == (there, (64, 48))


def test_runs_begin_at_keyframes_and_are_joined_where_they_are_near():
    times = list(range(100))
    packets = Packets(times, [0, 20, 25, 60])
    assert packets.runs([3]) == [Run(0, 3, (3,))]
    assert packets.runs([3, 21, 99]) == [Run(0, 3, (3,)), Run(20, 21, (21,)), Run(60, 99, (99,))]
    assert packets.runs([10, 24, 26]) == [Run(0, 26, (10, 24, 26))]
