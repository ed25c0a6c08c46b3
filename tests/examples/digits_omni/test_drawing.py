import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from examples.digits_omni.drawing import (
    COLOURS,
    LARGEST,
    PAPERS,
    SMALLEST,
    VARIATIONS,
    paint,
    place,
    random_size,
)


@pytest.fixture(scope="module")
def digits():
    return load_digits().images.astype(np.uint8)


def test_sizes_and_aspect_ratios_vary_within_the_limits():
    sizes = np.array([random_size(np.random.default_rng(seed)) for seed in range(500)])
    assert sizes.min() >= SMALLEST
    assert sizes.max() <= LARGEST
    ratios = sizes[:, 0] / sizes[:, 1]
    assert ratios.min() < 0.75
    assert ratios.max() > 1.33
    assert max(ratios.max(), 1 / ratios.min()) < 1.7


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (64, 64)])
def test_digit_is_large_and_wholly_inside(digits, size):
    tall = max(digits[:50], key=lambda digit: (digit.max(axis=1) > 8).sum())
    for seed in range(10):
        ink = place(tall, size, VARIATIONS["train"], np.random.default_rng(seed))
        assert ink.shape == size[::-1]
        rows, columns = (np.flatnonzero(ink.max(axis) > 100) for axis in (1, 0))
        assert len(rows) > 0.6 * min(size)
        assert len(columns) <= min(size)


@pytest.mark.parametrize(("split", "legible"), [("heldout", 0.97), ("train", 0.9)])
def test_drawing_keeps_the_digit_legible(digits, split, legible):
    """Nearly every drawing is most like an original of its own class; a wrong turn or mirror is not.

    The comparison does not undo slants and turns, of which training has more.
    """
    rng = np.random.default_rng(0)
    labels = load_digits().target
    originals = np.stack([outline(np.kron(digit * 15, np.ones((10, 10)))) for digit in digits])
    some = rng.choice(len(digits), 100, replace=False)
    drawings = [place(digits[i], random_size(rng), VARIATIONS[split], rng) for i in some]
    nearest = (originals @ np.stack([outline(ink) for ink in drawings]).T).argmax(axis=0)
    assert (labels[nearest] == labels[some]).mean() >= legible
    mirrored = (originals @ np.stack([outline(ink[:, ::-1]) for ink in drawings]).T).argmax(axis=0)
    assert (labels[mirrored] == labels[some]).mean() < 0.8


def outline(ink):
    """The inked part of a picture as a unit vector of 12 x 12 grey values around their mean."""
    rows, columns = (np.flatnonzero(ink.max(axis) > 60) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    small = Image.fromarray(ink.astype(np.uint8)).resize((12, 12), Image.Resampling.BILINEAR, box=box)
    values = np.asarray(small, np.float32).ravel()
    return (values - values.mean()) / np.linalg.norm(values - values.mean())


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("paper", PAPERS)
def test_ink_is_nearest_to_its_own_colour(colour, paper):
    picture = paint(np.uint8([[0, 255], [0, 255]]), colour, paper)
    assert tuple(picture[0, 0]) == paper
    assert tuple(picture[1, 1]) == COLOURS[colour]
    contrast = np.abs(np.subtract(COLOURS[colour], paper, dtype=float)).sum()
    assert contrast > 150
    others = [
        np.abs(np.subtract(COLOURS[colour], rgb)).sum() for name, rgb in COLOURS.items() if name != colour
    ]
    assert min(others) > 120
