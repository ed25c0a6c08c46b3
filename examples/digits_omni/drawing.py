"""Handwritten digits drawn in coloured ink on a plain background."""

import dataclasses

import numpy as np
from PIL import Image

from ola_jax.typing import Array, UInt8

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
    """How much one digit differs from drawing to drawing."""

    shift: float  # how far from the centre it may lie, in shorter sides of the image
    turn: float  # degrees
    slant: float  # horizontal shift per height
    smallest: float  # its height at least, in shorter sides of the image
    narrowest: float  # its width at least, in heights


# Few people wrote the digits, so training varies them more than the questions of the end.
VARIATIONS = {
    "train": Variation(shift=0.1, turn=14.0, slant=0.2, smallest=0.8, narrowest=0.7),
    "heldout": Variation(shift=0.05, turn=6.0, slant=0.0, smallest=0.88, narrowest=0.8),
}
LARGEST_DIGIT = 0.98  # its height at most, in shorter sides of the image


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of an image, pixels; neither side is over 1.6 times the other."""
    side, stretch = rng.uniform(52, 76), np.exp(rng.uniform(-0.23, 0.23))
    return int(side * stretch), int(side / stretch)


def random_paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """The RGB colour of a background."""
    return PAPERS[rng.integers(len(PAPERS))]


def place(
    digit: UInt8[Array, "8 8"], size: tuple[int, int], variation: Variation, rng: np.random.Generator
) -> UInt8[Array, "h w"]:
    """How much ink (0..255) lies where, in a picture of `size` (width, height), pixels.

    The digit, of scikit-learn's set (0 paper .. 16 ink), is smoothly enlarged, slanted, turned and
    put about the centre.
    """
    v = variation
    height = min(size) * rng.uniform(v.smallest, LARGEST_DIGIT)
    shape = int(height * rng.uniform(v.narrowest, 1)), int(height)
    cells = Image.fromarray(np.pad(digit, 1) * 15)  # a rim of paper, half of it cut off again
    stroke = cells.resize(shape, Image.Resampling.BICUBIC, box=(0.5, 0.5, 9.5, 9.5))
    slant = rng.uniform(-v.slant, v.slant)
    shear = (1, slant, -slant * shape[1] / 2, 0, 1, 0)
    stroke = stroke.transform(shape, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    stroke = stroke.rotate(rng.uniform(-v.turn, v.turn), Image.Resampling.BICUBIC)
    corner = []
    for room, used in zip(size, shape, strict=True):
        spare = (room - used) / 2
        corner.append(round(spare + rng.uniform(-1, 1) * min(spare, v.shift * min(size))))
    ink = Image.new("L", size)
    ink.paste(stroke, tuple(corner))
    return np.asarray(ink)


def paint(ink: UInt8[Array, "*shape"], colour: str, paper: tuple[int, int, int]) -> UInt8[Array, "*shape 3"]:
    """RGB pictures of ink on paper; full ink from 200 on, none up to 20."""
    opacity = np.clip((np.arange(256, dtype=np.float32)[:, None] - 20) / 180, 0, 1)
    palette = opacity * np.float32(COLOURS[colour]) + (1 - opacity) * np.float32(paper)
    return np.round(palette).astype(np.uint8)[ink]
