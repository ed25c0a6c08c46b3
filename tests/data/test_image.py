import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ola_jax.config import PixelLimits, ProcessorConfig
from ola_jax.data.image import image_views, patchify, read_image, video_frame
from ola_jax.data.media import Media
from ola_jax.errors import OlaError
from tests.golden import VISIBLE, arrays, stage

META = stage("preproc")["meta"]
PRESETS = {"train": ProcessorConfig().train, "infer": ProcessorConfig().infer}


def media(file):
    return Media(file, path=str(VISIBLE / "inputs" / file))


def sha256(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def stored(pixels, name, golden):
    """The golden's array of that name, and the same selection of rows and columns of ours."""
    full = name + "_u8"
    key = next(key for key in golden if key == full or key.startswith(full + "_s"))
    step = int(key.removeprefix(full).removeprefix("_s") or 1)
    return golden[key], pixels[::step, ::step]


@pytest.mark.parametrize("name", [n for n in META if n.startswith("img_")])
def test_image_views_are_the_originals_to_the_last_bit(name):
    meta, preset = META[name], name.rsplit("_", 1)[1]
    image = read_image(media(meta["file"]), to_rgb=preset == "train")
    assert image.mode == meta["pil_mode"]
    golden = arrays("preproc.npz")
    for view, part in zip(image_views(image, PRESETS[preset]), ("low", "high"), strict=True):
        assert [view.height, view.width] == meta[f"{part}_hw"]
        if preset == "train":  # the arrays of the other preset are not stored, being the same
            expected, actual = stored(np.asarray(view), f"{name}_{part}", golden)
            np.testing.assert_array_equal(actual, expected)
        assert sha256(view) == meta[f"{part}_sha256"]


@pytest.mark.parametrize("name", [n for n in META if n.startswith("vframe")])
def test_video_frames_are_the_originals_to_the_last_bit(name):
    frame_name, preset = name.rsplit("_", 1)
    image = read_image(media(f"{frame_name}.png"), to_rgb=True)
    frame = video_frame(image, PRESETS[preset])
    assert [frame.height, frame.width] == META[name]["hw"]
    expected, actual = stored(np.asarray(frame), name, arrays("preproc.npz"))
    np.testing.assert_array_equal(actual, expected)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_patches_lie_in_blocks_of_two_by_two(height, width, patch_size):
    rows, columns = 2 * height, 2 * width
    pixels = np.random.default_rng(0).integers(0, 256, (rows * patch_size, columns * patch_size, 3), np.uint8)
    image = patchify(pixels, patch_size)
    assert image.grid == (rows, columns)
    assert image.patches.shape == (rows * columns, 3 * patch_size**2)
    number = 0
    for block_row in range(height):
        for block_column in range(width):
            for inner in range(4):
                row, column = 2 * block_row + inner // 2, 2 * block_column + inner % 2
                top, left = row * patch_size, column * patch_size
                patch = pixels[top : top + patch_size, left : left + patch_size]
                np.testing.assert_array_equal(image.patches[number], patch.ravel())
                number += 1


def test_a_frame_whose_side_would_vanish_is_an_error():
    with pytest.raises(OlaError, match=r"clip\.mp4: 2x400 pixels is too narrow"):
        video_frame(Image.new("RGB", (2, 400)), PixelLimits(), "clip.mp4")


def test_an_image_of_extreme_aspect_keeps_one_block():
    low, high = image_views(Image.new("RGB", (4, 900_000)), PixelLimits())
    assert high.width == low.width == 32


def test_a_large_palette_image_is_resized_by_nearest_neighbour_in_inference():
    image = Image.new("P", (300, 300))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putdata([(x // 7 + y // 7) % 2 for y in range(300) for x in range(300)])
    limits = PixelLimits(high_res_max_side=128)
    _, high = image_views(image, limits)
    assert set(np.unique(np.asarray(high))) <= {0, 255}
    _, smooth = image_views(image.convert("RGB"), limits)
    assert len(np.unique(np.asarray(smooth))) > 2


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_truncated_image_is_an_error_naming_the_file(tmp_path, keep):
    for name in ("img_jpeg.jpg", "img_rgb.png"):
        data = (VISIBLE / "inputs" / name).read_bytes()
        file = tmp_path / name
        file.write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(OlaError, match=f"{name}: cannot be read as an image"):
            read_image(Media(str(file), path=str(file)), to_rgb=True)


def test_a_file_that_is_no_image_is_an_error():
    with pytest.raises(OlaError, match=r"a_short\.wav: cannot be read as an image \(not an image\)"):
        read_image(media("a_short.wav"), to_rgb=True)
