"""Handwritten digits drawn in coloured ink on a plain background."""

import dataclasses

import numpy as np
from PIL import Image

from ola_jax.typing import HostArray, UInt8

COLOURS = {  # all of them dark in the green channel: strokes stand out from every paper
    "red": (220, 25, 25),
    "blue": (25, 60, 225),
    "purple": (160, 20, 190),
    "black": (20, 20, 20),
}
PAPERS = ((255, 255, 255), (236, 236, 236), (255, 248, 220), (226, 240, 250))
SMALLEST, LARGEST = 40, 96  # pixels, sides of an image


@dataclasses.dataclass(frozen=True)
class Variation:
    """The ranges in which drawings of one digit differ."""

    shift: float  # greatest distance from the centre, in shorter sides of the image
    turn: float  # greatest rotation, in degrees
    slant: float  # greatest horizontal shift per height
    smallest: float  # least height, in shorter sides of the image
    narrowest: float  # least width, in heights


# The digits are of few writers, so training varies them more than the held-out split.
VARIATIONS = {
    "train": Variation(shift=0.1, turn=14.0, slant=0.2, smallest=0.8, narrowest=0.7),
    "heldout": Variation(shift=0.05, turn=6.0, slant=0.0, smallest=0.88, narrowest=0.8),
}
LARGEST_DIGIT = 0.98  # greatest height, in shorter sides of the image


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of an image, pixels; neither side is over 1.6 times the other."""
    side, stretch = rng.uniform(52, 76), np.exp(rng.uniform(-0.23, 0.23))
    return int(side * stretch), int(side / stretch)


def random_paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """The RGB colour of a background."""
    return PAPERS[rng.integers(len(PAPERS))]


def place(
    digit: UInt8[HostArray, "8 8"], size: tuple[int, int], variation: Variation, rng: np.random.Generator
) -> UInt8[HostArray, "h w"]:
    """The ink (0..255) of each pixel of a picture of `size` (width, height in pixels).

    The digit, of scikit-learn's set (0 paper .. 16 ink), is smoothly enlarged, slanted, rotated and placed
    near the centre.
    """
    v = variation
    height = min(size) * rng.uniform(v.smallest, LARGEST_DIGIT)
    shape = int(height * rng.uniform(v.narrowest, 1)), int(height)
    cells = Image.fromarray(np.pad(digit, 1) * 15)  # a margin of paper, half of which is cropped again
    stroke = cells.resize(shape, Image.Resampling.BICUBIC, box=(0.5, 0.5, 9.5, 9.5))
    slant = rng.uniform(-v.slant, v.slant)
    shear = (1, slant, -slant * shape[1] / 2, 0, 1, 0)
    stroke = stroke.transform(shape, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    stroke = stroke.rotate(rng.uniform(-v.turn, v.turn), Image.Resampling.BICUBIC)
    spare = [(room - used) / 2 for room, used in zip(size, shape, strict=True)]
    left, top = (round(s + rng.uniform(-1, 1) * min(s, v.shift * min(size))) for s in spare)
    ink = Image.new("L", size)
    ink.paste(stroke, (left, top))
    return np.asarray(ink)


def paint(
    ink: UInt8[HostArray, "*shape"], colour: str, paper: tuple[int, int, int]
) -> UInt8[HostArray, "*shape 3"]:
    """RGB pictures of ink on paper; values up to 20 are all paper, from 200 all ink."""
    opacity = np.clip((np.arange(256, dtype=np.float32)[:, None] - 20) / 180, 0, 1)
    palette = opacity * np.array(COLOURS[colour], np.float32) + (1 - opacity) * np.array(paper, np.float32)
    return np.round(palette).astype(np.uint8)[ink]
