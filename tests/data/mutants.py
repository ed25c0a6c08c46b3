"""Damaged media: small files of each kind, and the outcome of reading them after random changes."""

import io
import pathlib
import time
import warnings

import av
import numpy as np
import soundfile
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data.audio import read_audio, read_sound_track
from ola_jax.data.image import image_views, read_image, video_frame
from ola_jax.data.media import MediaBytes
from ola_jax.data.video import read_frames
from ola_jax.errors import OlaError
from tests.data.clips import tone

LIMITS = MediaLimits(image_pixels=2**22, frame_pixels=2**22, video_frames=2000, audio_seconds=100.0)
PIXELS = PixelLimits(max_frames=4)
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def seeds():
    """Encoded images, audio files and containers of both, by kind."""
    rng = np.random.default_rng(0)
    files = {}
    picture = Image.fromarray(rng.integers(0, 256, (24, 40, 3), np.uint8))
    for name, mode, kind, options in (
        ("png", "RGB", "PNG", {}),
        ("palette.png", "P", "PNG", {"transparency": bytes(range(99))}),
        ("jpeg", "RGB", "JPEG", {"progressive": True}),
        ("tiff", "RGB", "TIFF", {}),
        ("deflate.tiff", "L", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("float.tiff", "F", "TIFF", {}),
        ("bmp", "RGB", "BMP", {}),
        ("webp", "RGB", "WEBP", {}),
        ("ico", "RGBA", "ICO", {}),
    ):
        files[name] = saved(picture.convert(mode), kind, **options)
    more = [Image.new("RGB", (24, 16), (60 * i, 0, 0)) for i in range(3)]
    for name, kind in (("moving.webp", "WEBP"), ("gif", "GIF"), ("apng", "PNG")):
        files[name] = saved(more[0], kind, save_all=True, append_images=more[1:], duration=40)
    for name, kind, subtype in (
        ("wav", "WAV", "PCM_16"),
        ("float.wav", "WAV", "FLOAT"),
        ("flac", "FLAC", "PCM_16"),
        ("vorbis.ogg", "OGG", "VORBIS"),
        ("opus.ogg", "OGG", "OPUS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
        ("aiff", "AIFF", "PCM_16"),
    ):
        file = io.BytesIO()
        soundfile.write(file, tone(16_000, 0.3)[0], 16_000, format=kind, subtype=subtype)
        files[name] = file.getvalue()
    for name, kind, video, audio in (
        ("mp4", "mp4", "libx264", "aac"),
        ("mkv", "matroska", "libx264", "libopus"),
        ("avi", "avi", "mpeg4", "libmp3lame"),
        ("ts", "mpegts", "mpeg2video", "aac"),
        ("m4a", "ipod", None, "aac"),
        ("aac", "adts", None, "aac"),
    ):
        files[name] = recorded(kind, video, audio)
    return files


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def recorded(kind, video, audio):
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        track = container.add_stream(audio, rate=48_000, layout="mono")
        if video:
            pictures = container.add_stream(video, rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            for i in range(5):
                pixels = np.full((48, 64, 3), 40 * i, np.uint8)
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(pictures.encode())
        resampler = av.AudioResampler(track.format.name, "mono", 48_000)
        for start in range(0, 9600, 960):
            block = tone(48_000, 0.2)[:, start : start + 960]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
            frame.sample_rate = 48_000
            for part in resampler.resample(frame):
                container.mux(track.encode(part))
        container.mux(track.encode())
    return file.getvalue()


def mutant(data, other, rng):
    """The bytes after one to four random changes; bytes of `other` may be spliced in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        length = max(len(data), 1)
        place = int(rng.integers(0, length if rng.random() < 0.5 else min(length, 200)))
        size = int(rng.integers(1, 64))
        match rng.integers(0, 7):
            case 0:  # bits
                for _ in range(size):
                    where = int(rng.integers(0, length))
                    data[where : where + 1] = bytes([rng.integers(0, 256)])
            case 1:  # the end
                del data[place:]
            case 2:  # a number of a header
                width, order = int(rng.choice([1, 2, 4, 8])), str(rng.choice(["little", "big"]))
                value = int(EXTREMES[rng.integers(0, len(EXTREMES))]) % 2 ** (8 * width)
                data[place : place + width] = value.to_bytes(width, order)
            case 3:
                del data[place : place + size]
            case 4:
                data[place:place] = data[place : place + size * 8]
            case 5:  # another file
                start = int(rng.integers(0, len(other)))
                data[place : place + size * 8] = other[start : start + size * 8]
            case 6:
                data[place : place + 1] = (
                    bytes([data[place] ^ (1 << int(rng.integers(0, 8)))]) if data else b""
                )
    return bytes(data)


def read_all(data):
    """Reads the bytes as an image, a video, audio, and the track of a video; returns the successes."""
    media, read = MediaBytes("mutant", data), 0
    for reader in (
        lambda: image_views(read_image(media, True, LIMITS), PIXELS),
        lambda: image_views(read_image(media, False, LIMITS), PIXELS),
        lambda: read_frames([media], PIXELS, LIMITS, reduce=lambda frame: video_frame(frame, PIXELS)),
        lambda: read_audio(media, LIMITS, 60.0),
        lambda: read_sound_track(media, LIMITS, 60.0),
    ):
        try:
            read += reader() is not None
        except OlaError as error:
            if not str(error).isprintable() or len(str(error)) > 500:
                raise ValueError("a message that is long or has several lines") from error
    return read


def read_mutants(files, seed, count):
    """Reads mutants; returns the successes, the faults, seconds of the slowest, and the peak in MB."""
    warnings.simplefilter("ignore")
    names, read, faults, slowest = sorted(files), 0, [], 0.0
    for number in range(seed, seed + count):
        rng = np.random.default_rng(number)
        name = names[number % len(names)]
        data = mutant(files[name], files[names[rng.integers(0, len(names))]], rng)
        began = time.monotonic()
        try:
            read += read_all(data)
        except Exception as error:
            faults.append((number, name, repr(error)))
        slowest = max(slowest, time.monotonic() - began)
    return read, faults, slowest, peak_memory()


def peak_memory():
    """The peak memory of this process in MB; getrusage would include that of its parent."""
    (line,) = [x for x in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) // 1024
