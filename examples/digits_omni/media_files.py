"""The media files of the dataset: each is described with its ground truth, then written."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.video.reformatter import VideoReformatter
from PIL import Image

from examples.digits_omni.drawing import Variation, paint, place, random_paper, random_size
from examples.digits_omni.speech import LONGEST, Recording, augment, vary
from ola_jax.config import SAMPLE_RATE
from ola_jax.typing import Float, HostArray, UInt8

FRAMES, FPS, SIDE = 8, 4, 64  # of a video: frames, frames per second, pixels
WOBBLE = 4  # pixels by which a digit moves in a video


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG of one digit. `source` is the digit's index in scikit-learn's set."""

    file: str
    digit: int
    source: int
    colour: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Speech:
    """A FLAC of one recording of the speech pack, varied. `source` is the recording's file there.

    `augmented`: changed as far as it remains understandable, for training.
    """

    file: str
    meaning: str
    text: str
    voice: str
    source: str
    seed: int
    augmented: bool


@dataclasses.dataclass(frozen=True)
class Clip:
    """An MP4 that shows one digit after another; `sound` is its sound track."""

    file: str
    digits: tuple[int, int]
    sources: tuple[int, int]
    colour: str
    sound: Speech | None
    seed: int


def write_picture(item: Picture, root: Path, digits: UInt8[HostArray, "n 8 8"], variation: Variation) -> None:
    """Draws and writes `item.file` below `root`."""
    rng = np.random.default_rng(item.seed)
    picture = paint(
        place(digits[item.source], random_size(rng), variation, rng), item.colour, random_paper(rng)
    )
    Image.fromarray(picture).save(root / item.file, compress_level=1)


def speech_samples(item: Speech, pack: dict[str, Recording]) -> Float[HostArray, "T"]:
    """The audio of `item`, at 16 kHz."""
    change = augment if item.augmented else vary
    return change(pack[item.source].samples, np.random.default_rng(item.seed))


def write_speech(item: Speech, root: Path, pack: dict[str, Recording]) -> None:
    """Writes `item.file` below `root`."""
    soundfile.write(
        root / item.file, speech_samples(item, pack), SAMPLE_RATE, subtype="PCM_16", compression_level=0.0
    )


def clip_frames(
    item: Clip, digits: UInt8[HostArray, "n 8 8"], variation: Variation
) -> UInt8[HostArray, "f 64 64 3"]:
    """The frames of `item`: the digit changes about half-way, and moves a little in each frame."""
    rng = np.random.default_rng(item.seed)
    room = SIDE - WOBBLE
    inks = [place(digits[source], (room, room), variation, rng) for source in item.sources]
    change = rng.integers(FRAMES // 2 - 1, FRAMES // 2 + 2)
    film = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    for t in range(FRAMES):
        x, y = rng.integers(0, WOBBLE + 1, 2)
        film[t, y : y + room, x : x + room] = inks[int(t >= change)]
    return paint(film, item.colour, random_paper(rng))


def write_clip(
    item: Clip,
    root: Path,
    digits: UInt8[HostArray, "n 8 8"],
    variation: Variation,
    pack: dict[str, Recording],
) -> None:
    """Encodes and writes `item.file` below `root`: H.264, and AAC if it has a sound track."""
    with av.open(root / item.file, "w") as container:
        video = container.add_stream("libx264", FPS, options={"preset": "ultrafast", "crf": "18"})
        video.width = video.height = SIDE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # files are written in parallel instead
        if item.sound:
            options = {"aac_coder": "fast"}
            track = container.add_stream("aac", SAMPLE_RATE, options, layout="mono", bit_rate=48_000)
        reformatter = VideoReformatter()
        for picture in clip_frames(item, digits, variation):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(reformatter.reformat(frame, format=video.pix_fmt, threads=1)))
        container.mux(video.encode(None))
        if item.sound:
            samples = speech_samples(item.sound, pack)
            samples = np.pad(samples, (0, LONGEST - len(samples)))  # as long as the video
            audio = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            audio.sample_rate, audio.pts, audio.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
            container.mux(track.encode(audio))
            container.mux(track.encode(None))
