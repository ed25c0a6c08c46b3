"""Faults that other servers had, each a kind of request: this one stays up and says what is wrong.

The numbers are those of vLLM's advisories.
"""

import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.serve.limits import Limits
from tests import parity
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import INPUTS, Running, audio, chat, data_url, image, running, video

LIMITS = Limits(
    body_bytes=3_000_000,
    images=4,
    media_bytes=1_000_000,
    image_pixels=4_000_000,
    frame_pixels=300_000,
    video_frames=200,
    media_seconds=60.0,
    decoded_bytes=150 * 2**20,
    decode_seconds=20.0,
)
SECRETS = (
    "Traceback",
    " at 0x",
    "/tmp",
    "ola-serve",
    "Pillow",
    "PIL",
    "FFmpeg",
    "av.",
    "libsndfile",
    "Error:",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(FakeEngine(parity.processor("infer")), LIMITS) as found:
        yield found


@pytest.fixture(autouse=True)
def stays_up(server: Running) -> Iterator[None]:
    """After each of these requests the server answers others, and none holds a slot or a place."""
    yield
    assert server.post(chat("hello", image(INPUTS / "img_rgb.png")))[0] == 200
    assert server.engine.status().running == 0


def refused(server: Running, *parts: Any, status: int = 400) -> str:
    """The message of the error; it says nothing of the inside."""
    found, reply, _ = server.post(chat("What?", *parts))
    assert found == status, reply
    message = reply["error"]["message"]
    assert not [secret for secret in SECRETS if secret in message], message
    assert len(message) < 400
    return message


def png(width: int, height: int) -> bytes:
    """The head of an image of this size, and no pixels."""
    piece = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", b"") + piece(b"IEND", b"")


def flat_png(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, "PNG")
    return out.getvalue()


def clip(frames: int, width: int = 64, height: int = 64) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), "rgb24")
        for _ in range(frames):
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()


def test_an_image_of_one_pixel(server: Running) -> None:
    """CVE-2026-22773."""
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    status, reply, _ = server.post(chat("What?", image(out.getvalue())))
    assert status == 200, reply


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (10_000_000, 1)])
def test_an_image_of_many_pixels_is_refused_by_its_head(server: Running, size: tuple[int, int]) -> None:
    """Image bombs."""
    begin = time.monotonic()
    refused(server, image(png(*size)))
    assert time.monotonic() - begin < 10


def test_a_small_file_of_many_pixels(server: Running) -> None:
    message = refused(server, image(flat_png(3000)))
    assert "3000x3000 pixels, at most 4000000" in message
    assert "messages[0].content[1]" in message


def test_many_images_are_limited_together(server: Running) -> None:
    """CVE-2026-130686."""
    one = image(flat_png(10))
    assert "at most 4" in refused(server, *[one] * 5)
    with running(FakeEngine(parity.processor("infer")), Limits(decoded_bytes=40 * 2**20)) as small:
        assert "when decoded" in refused(small, *[image(flat_png(1500))] * 3)
        assert small.post(chat("What?", image(flat_png(1500))))[0] == 200


def test_many_tokens_are_refused_before_media_are_decoded(server: Running) -> None:
    message = refused(server, *[image(flat_png(1900))] * 4)
    assert "prompt and answer have room for 8192" in message


@pytest.mark.parametrize("kind", ["OGG", "FLAC"])
def test_long_audio_in_a_small_file(server: Running, kind: str) -> None:
    """CVE-2026-54233."""
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 8000, 1, format=kind) as file:
        for _ in range(600):  # libsndfile crashes where it has to write it at once
            file.write(np.zeros(8000, np.int16))
    assert len(out.getvalue()) < LIMITS.media_bytes
    assert "600 seconds, at most 60" in refused(server, audio(out.getvalue()))


def test_long_audio_whose_head_says_nothing(server: Running) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(8000 * 600, np.int16), 8000, format="FLAC")
    data = bytearray(out.getvalue())
    data[21] &= 0xF0  # the number of samples: not known
    data[22:26] = bytes(4)
    assert "larger than what is decoded here" in refused(server, audio(bytes(data)))


def test_many_frames(server: Running) -> None:
    """CVE-2026-34755."""
    assert "201 frames, at most 200" in refused(server, video(clip(201)))
    assert "640x480 pixels, at most 300000" in refused(server, video(clip(2, 640, 480)))
    pictures = [Image.fromarray(np.full((4, 4), i % 256, np.uint8)) for i in range(300)]
    out = io.BytesIO()
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:])
    assert "frames, at most 200" in refused(server, video(out.getvalue()))


def test_a_list_of_frames_is_no_video(server: Running) -> None:
    frames = f"data:video/jpeg;base64,{','.join(['/9j/4AAQ'] * 1000)}"
    refused(server, {"type": "video_url", "video_url": {"url": frames}})


@pytest.mark.parametrize("key", ["max_frames", "num_frames", "fps"])
def test_the_client_does_not_choose_the_number_of_frames(server: Running, key: str) -> None:
    """CVE-2026-105758 and CVE-2026-105760."""
    part = video(INPUTS / "clip.mp4")
    assert key in refused(server, {"type": "video_url", "video_url": part["video_url"] | {key: 10**9}})
    assert key in refused(server, part | {key: 10**9})
    assert key in server.refused(400, **{key: 10**9})["message"]


def test_a_body_that_is_too_large_is_refused_by_its_head(server: Running) -> None:
    """CVE-2026-55646 and CVE-2026-100650: nothing of it is read or kept."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_large(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 100 * LIMITS.body_bytes:
                connection.sendall(part)
                sent += len(part)
        except OSError:
            pass
        assert sent < 10 * LIMITS.body_bytes


def test_a_file_that_is_too_large_is_refused_undecoded(server: Running) -> None:
    message = refused(server, image(b"\x89PNG\r\n\x1a\n" + bytes(1_100_000)), status=413)
    assert "1000000 bytes" in message


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
        b"\xff\x4f\xff\x51" + bytes(100),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x80\x04\x95\x0f\0\0\0\0\0\0\0\x8c\x05posix\x94",
        b"hello",
        b"\0" * 64,
    ],
)
@pytest.mark.parametrize("part", [image, audio, video])
def test_formats_that_few_people_need_reach_no_library(server: Running, part: Any, data: bytes) -> None:
    """CVE-2026-22778: JPEG 2000; playlists that name files; pickles (CVE-2025-62164)."""
    assert "in a format that is read here" in refused(server, part(data))


@pytest.mark.parametrize("name", ["img_rgb.png", "a_short.wav", "clip.mp4", "img_jpeg.jpg"])
def test_names_and_media_types_of_clients_do_not_count(server: Running, name: str) -> None:
    data = (INPUTS / name).read_bytes()
    part = {"png": image, "wav": audio, "mp4": video, "jpg": image}[name.partition(".")[2]]
    wrong = data_url(data, "application/x-python-pickle")
    named = {"type": "image_url", "image_url": {"url": wrong}} if part is image else part(data)
    if part is video:
        named = {"type": "video_url", "video_url": {"url": data_url(data, "audio/wav")}}
    assert server.post(chat(named))[0] == 200


@pytest.mark.parametrize("name", ["img_rgb.png", "img_jpeg.jpg", "a_short.wav", "clip.mp4"])
def test_broken_media_are_a_mistake_of_the_client(server: Running, name: str) -> None:
    """CVE-2026-22778: the texts of libraries, and the addresses in them, do not reach the client."""
    data = (INPUTS / name).read_bytes()
    part = {"png": image, "wav": audio, "mp4": video, "jpg": image}[name.partition(".")[2]]
    for broken in (data[:20], data[:40] + bytes(len(data)), data[: len(data) // 3]):
        status, reply, _ = server.post(
            chat("What?", part(broken)) if part is not audio else chat(part(broken))
        )
        if status != 200:  # some of it may be there
            assert status == 400, reply
            message = reply["error"]["message"]
            assert not [secret for secret in SECRETS if secret in message], message


def test_a_transparency_chunk_of_wrong_size(server: Running) -> None:
    """GHSA-8jr5-v98p-w75m."""
    piece = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = piece(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0)) + piece(b"PLTE", bytes(3))
    pixels = piece(b"IDAT", zlib.compress((b"\0" + bytes(4)) * 4)) + piece(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + head + piece(b"tRNS", bytes(255)) + pixels
    status, _, _ = server.post(chat("What?", image(data)))
    assert status in (200, 400)


@pytest.mark.parametrize("kind", ["image_embeds", "prompt_embeds", "audio_embeds", "image_pil"])
def test_no_tensors_are_read_from_requests(server: Running, kind: str) -> None:
    """CVE-2025-62164."""
    assert "not supported" in refused(server, {"type": kind, kind: "gASVAAAA"})


def test_answers_are_one_and_bounded(server: Running) -> None:
    """CVE-2026-34756."""
    assert server.refused(400, n=16384)["param"] == "n"
    assert server.refused(400, max_completion_tokens=2**31 - 1)["param"] == "max_completion_tokens"


def test_media_of_equal_bytes_and_unequal_shape_differ(server: Running) -> None:
    """CVE-2025-46722: the engine is given patches and their grid, from which it makes its keys."""
    wide, tall = (Image.new("RGB", size, (9, 9, 9)) for size in ((64, 32), (32, 64)))
    samples = []
    for picture in (wide, tall):
        out = io.BytesIO()
        picture.save(out, "PNG")
        assert server.post(chat("What?", image(out.getvalue())))[0] == 200
        samples.append(server.engine.requests[-1].sample)
    assert [i.grid for i in samples[0].images] != [i.grid for i in samples[1].images]


@pytest.mark.parametrize("length", [1_000_001, 400_000])
def test_long_texts(server: Running, length: int) -> None:
    message = refused(server, "x " * (length // 2) + "x" * (length % 2))
    assert "at most" in message or "have room for" in message


def test_many_messages(server: Running) -> None:
    body = chat("x") | {"messages": [{"role": "user", "content": "x"}] * 257}
    status, reply, _ = server.post(json.dumps(body).encode())
    assert (status, "at most 256" in reply["error"]["message"]) == (400, True)
