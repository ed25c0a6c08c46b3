import dataclasses
import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits, ProcessorConfig
from ola_jax.data.image import (
    image_views,
    is_final_frame,
    patchify,
    read_final_frame,
    read_image,
    video_frame,
)
from ola_jax.data.media import MediaBytes, MediaFile
from ola_jax.errors import OlaError
from tests.golden import VISIBLE, arrays, stage

META = stage("preproc")["meta"]
PRESETS = {"train": ProcessorConfig().train, "infer": ProcessorConfig().infer}


def media(file):
    return MediaFile(file, str(VISIBLE / "inputs" / file))


def sha256(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def stored(pixels, name, golden):
    """The golden array of that name, and the same selection of rows and columns of our pixels."""
    full = name + "_u8"
    key = next(key for key in golden if key == full or key.startswith(full + "_s"))
    step = int(key.removeprefix(full).removeprefix("_s") or 1)
    return golden[key], pixels[::step, ::step]


@pytest.mark.parametrize("name", [n for n in META if n.startswith("img_")])
def test_image_views_are_the_originals_bit_for_bit(name):
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
def test_video_frames_are_the_originals_bit_for_bit(name):
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


def test_a_frame_too_narrow_to_resize_is_an_error():
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
            read_image(MediaFile(str(file), str(file)), to_rgb=True)


def test_a_file_that_is_not_an_image_is_an_error():
    with pytest.raises(OlaError, match=r"a_short\.wav: cannot be read as an image \(not an image\)"):
        read_image(media("a_short.wav"), to_rgb=True)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return MediaBytes(f"a {kind}", file.getvalue())


GREYS = np.arange(0, 65_536, 256, dtype=np.uint16).reshape(16, 16) + 77
AS_8_BITS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (GREYS, "PNG"),
        (GREYS, "TIFF"),
        (GREYS.astype(">u2"), "TIFF"),
        (GREYS.astype(np.int32), "PPM"),
        (GREYS.astype(np.int32), "TIFF"),
        (AS_8_BITS.astype(np.int32), "TIFF"),
        (GREYS.astype(np.int32) << 15, "TIFF"),
        (AS_8_BITS.astype(np.float32), "TIFF"),
        (AS_8_BITS.astype(np.float32) / 255, "TIFF"),
        (GREYS.astype(np.float32), "TIFF"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_more_than_8_bits_are_scaled_to_8(samples, kind, to_rgb):
    image = read_image(encoded(Image.fromarray(samples), kind), to_rgb)
    assert image.mode == ("RGB" if to_rgb else "L")
    np.testing.assert_array_equal(np.asarray(image.convert("L")), AS_8_BITS)
    low, _ = image_views(image, PixelLimits(image_multiple=16, low_res_side=16))
    np.testing.assert_array_equal(np.asarray(low.convert("L")), AS_8_BITS)


def test_a_dark_16_bit_image_stays_dark():
    for kind, samples in (("PNG", GREYS // 512), ("PPM", (GREYS // 512).astype(np.int32))):
        media = encoded(Image.fromarray(samples), kind)
        for turned in (False, True):
            image = read_image(media, to_rgb=True, limits=MediaLimits(exif_orientation=turned))
            assert np.asarray(image).max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_float_samples_of_no_known_range_are_an_error(value):
    samples = np.full((4, 4), 0.5, np.float32)
    samples[1, 2] = value
    with pytest.raises(OlaError, match=r"a TIFF: cannot be read as an image .*float samples"):
        read_image(encoded(Image.fromarray(samples), "TIFF"), to_rgb=False)


def pictures_of_8_bits():
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    for mode, kind in (
        ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"),
        ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"),
        ("L", "JPEG"), ("RGB", "BMP"),
    ):  # fmt: skip
        yield pytest.param(encoded(rgb.convert(mode), kind), id=f"{mode} {kind}")
    palette = rgb.convert("P")
    yield pytest.param(encoded(palette, "PNG", transparency=3), id="one transparent colour")
    yield pytest.param(encoded(palette, "PNG", transparency=bytes(range(200))), id="many transparent colours")


@pytest.mark.parametrize("media", list(pictures_of_8_bits()))
@pytest.mark.parametrize("limits", [PixelLimits(), PixelLimits(high_res_max_side=32)], ids=["pad", "resize"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # of the plain decoding below
def test_8_bits_are_left_as_pillow_decodes_them(media, limits):
    plain = Image.open(media.open())
    plain.load()
    for to_rgb in (True, False):
        expected = image_views(plain.convert("RGB") if to_rgb else plain, limits)
        for view, other in zip(image_views(read_image(media, to_rgb), limits), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(view), np.asarray(other))


def test_transparent_palettes_do_not_warn():
    image = Image.fromarray(AS_8_BITS).convert("P")
    media = encoded(image, "PNG", transparency=bytes(range(200)))
    for to_rgb in (True, False):
        image_views(read_image(media, to_rgb), PixelLimits())


def claim_of_size(width, height):
    """A file whose header claims this size, with no pixels."""
    return MediaBytes("claim.ppm", f"P6 {width} {height} 255\n".encode() + bytes(100))


def test_the_size_is_checked_before_memory_is_allocated():
    with pytest.raises(OlaError, match=r"claim\.ppm: 5000x5000 pixels, at most 10000 are .*image_pixels"):
        read_image(claim_of_size(5000, 5000), True, MediaLimits(image_pixels=10_000))
    for side in (12_000, 100_000, 2**31 - 1, 10**9):
        with pytest.raises(OlaError, match=r"claim\.ppm: "):
            read_image(claim_of_size(side, side), True)


def test_an_image_large_enough_for_pillows_warning_is_read():
    image = Image.new("1", (10_000, 9_000))
    assert read_image(encoded(image, "PNG"), to_rgb=False).size == (10_000, 9_000)


def test_the_exif_orientation_is_applied_only_if_asked():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    for samples in (np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3), GREYS[:6, :9]):
        media = encoded(Image.fromarray(samples), "PNG", exif=exif)
        for to_rgb in (True, False):
            plain = read_image(media, to_rgb)
            assert plain.size == (9, 6)
            turned = read_image(media, to_rgb, MediaLimits(exif_orientation=True))
            np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(plain), -1))


def test_the_first_of_several_pictures_is_read():
    pictures = [Image.new("RGB", (8, 8), (40 * i,) * 3) for i in range(1, 4)]
    for kind in ("GIF", "PNG", "TIFF", "MPO"):
        media = encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])
        assert np.asarray(read_image(media, to_rgb=True)).mean() == pytest.approx(40, abs=1)


def jpeg(mode, size, **options):
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    pixels.convert(mode).save(file, "JPEG", **options)
    return MediaBytes("a.jpg", file.getvalue())


FRAMES = PixelLimits(video_min_side=16, video_max_side=128, video_multiple=16)


@pytest.mark.parametrize("size", [(16, 32), (112, 96)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 20, "progressive": True}])
@pytest.mark.parametrize("bgr", [False, True])
def test_a_frame_of_the_final_size_has_the_pixels_of_pillow(size, subsampling, options, bgr):
    media = dataclasses.replace(jpeg("RGB", size, subsampling=subsampling, **options), bgr=bgr)
    expected = np.asarray(video_frame(read_image(media, True), FRAMES))
    np.testing.assert_array_equal(read_final_frame(media, FRAMES), expected)


@pytest.mark.parametrize("size", [(15, 15), (16, 24), (16, 16), (160, 144)])
def test_only_a_frame_of_the_final_size_is_left_as_it_is(size):
    image = Image.new("RGB", size)
    assert is_final_frame(size, FRAMES) == (video_frame(image, FRAMES).size == size)


def test_other_frames_and_damaged_ones_are_left_to_pillow():
    good = jpeg("RGB", (48, 48), quality=80)
    assert read_final_frame(good, FRAMES) is not None
    for other in (jpeg("L", (48, 48)), jpeg("CMYK", (48, 48)), jpeg("RGB", (40, 48))):
        assert read_final_frame(other, FRAMES) is None
    rng, equal = np.random.default_rng(1), 0
    for _ in range(100):
        damaged = bytearray(good.data)
        for position in rng.integers(2, len(damaged), 3):
            damaged[position] ^= int(rng.integers(1, 256))
        media = MediaBytes("a.jpg", bytes(damaged))
        if (found := read_final_frame(media, FRAMES)) is not None:
            equal += 1
            np.testing.assert_array_equal(found, np.asarray(read_image(media, True)))
    assert equal > 5
