"""Images and video frames: decoding, resizing to a multiple of patches, splitting into patches.

Source: the original's ola/mm_utils.py.
"""

import math
import warnings

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data.depth import to_eight_bits
from ola_jax.data.media import LIMITS, BadMediaError, Media, MediaBytes
from ola_jax.data.sample import ImagePatches
from ola_jax.errors import first_line

GREY = (127, 127, 127)  # of the padding
_ORIENTATION = ExifTags.Base.Orientation
# Modes that are kept until an image is padded or resized, as in the original's inference script.
EXACT_HEADERS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP")  # decoding others may change their size
EARLY_EXIF = ("JPEG", "MPO")  # formats whose EXIF data stand before the pixels
KEPT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def read_image(media: Media, to_rgb: bool, limits: MediaLimits = LIMITS) -> Image.Image:
    """Decodes an image; of an animation or of several pages, the first picture.

    With `to_rgb` it is converted at once, as in training; otherwise it keeps its mode (palette,
    grey, alpha) until it is padded or cut into patches, as in the original's inference script (quirk V4).
    More than 8 bits per sample are reduced to 8. Raises OlaError for a file that is not an image, is broken,
    is truncated, or has more pixels than the limits allow (which is checked before it is decoded).
    """
    try:
        with open_image(media) as image:
            check_pixels(media, image.size, limit=limits.image_pixels, name="image_pixels")
            image.load()
            if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
                del image.info["transparency"]  # it is not used, and Pillow warns about it
            eight_bits = to_eight_bits(image)
            if limits.exif_orientation:
                eight_bits.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
                eight_bits = ImageOps.exif_transpose(eight_bits)
            if isinstance(media, MediaBytes) and media.bgr:
                return Image.merge("RGB", eight_bits.convert("RGB").split()[::-1])
            return _rgb(eight_bits) if to_rgb or eight_bits.mode not in KEPT_MODES else eight_bits
    except BadMediaError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise BadMediaError(f"{media.name}: cannot be read as an image ({reason})") from error


def open_image(media: Media) -> Image.Image:
    """Opens an image without decoding it, however many pixels it has; `check_pixels` limits them."""
    try:
        return Image.open(media.open())
    except Image.DecompressionBombWarning:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(media.open())


def check_pixels(media: Media, size: tuple[int, int], *, limit: int, name: str) -> None:
    """Raises OlaError for an image or frame of more pixels than allowed."""
    if size[0] * size[1] > limit:
        raise BadMediaError(
            f"{media.name}: {size[0]}x{size[1]} pixels, at most {limit} are decoded ({name}); resize it or "
            "raise the limit"
        )


def header_size(media: Media, limits: MediaLimits = LIMITS) -> tuple[int, int] | None:
    """Width and height of the image that `read_image` returns, from its header; None if they need decoding.

    Raises OlaError, or anything else, for media that are not an image or are beyond the limits.
    """
    with open_image(media) as image:
        check_pixels(media, image.size, limit=limits.image_pixels, name="image_pixels")
        if image.format not in EXACT_HEADERS or (limits.exif_orientation and image.format not in EARLY_EXIF):
            return None
        width, height = image.size
        turned = limits.exif_orientation and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return (height, width) if turned else (width, height)


def image_views(image: Image.Image, limits: PixelLimits) -> tuple[Image.Image, Image.Image]:
    """The low-resolution and the high-resolution view, both RGB, with sides that are multiples.

    The high-resolution view is padded with grey, or, above the largest area, resized (which keeps the aspect
    ratio only roughly). The low-resolution view is resized from it (quirk V3).
    """
    multiple = limits.image_multiple
    high = _pad_or_resize(image, multiple, 0, limits.high_res_max_side, smallest=multiple)
    low = high.resize(scale_size(high.size, limits.low_res_side, multiple=multiple, smallest=multiple))
    return _rgb(low), _rgb(high)


def view_sizes(size: tuple[int, int], limits: PixelLimits) -> list[tuple[int, int]]:
    """Width and height of the views of an image of this size that are kept: low and high, or the latter."""
    multiple = limits.image_multiple
    size = enlarged_size(size, limits.smallest_image_side)
    high, _ = _final_size(size, multiple, 0, limits.high_res_max_side, smallest=multiple)
    if limits.high_view_only:
        return [high]
    return [scale_size(high, limits.low_res_side, multiple=multiple, smallest=multiple), high]


ENLARGED_SIDE = 64  # pixels of the shorter side of an image that was too small


def enlarge(image: Image.Image, smallest: int) -> Image.Image:
    """The image, enlarged if a side is shorter than `smallest` pixels.

    Source: `process_anyres_highres_image_genli` of Ola in VLMEvalKit, which evaluated the released model.
    """
    if min(image.size) >= smallest:
        return image
    return image.convert("RGB").resize(enlarged_size(image.size, smallest))


def enlarged_size(size: tuple[int, int], smallest: int) -> tuple[int, int]:
    """Width and height of an image of this size after `enlarge`."""
    if min(size) >= smallest:
        return size
    scale = ENLARGED_SIDE / min(size)
    return int(size[0] * scale), int(size[1] * scale)


def video_frame(image: Image.Image, limits: PixelLimits, name: str = "frame") -> Image.Image:
    """A video frame, RGB, with sides that are multiples. Raises OlaError if a side would become zero."""
    multiple = limits.video_multiple
    frame = _pad_or_resize(image, multiple, limits.video_min_side, limits.video_max_side, smallest=0)
    if min(frame.size) == 0:
        width, height = image.size
        raise BadMediaError(
            f"{name}: {width}x{height} pixels is too narrow: a side would be 0 after resizing; crop or pad it"
        )
    return _rgb(frame)


def frame_size(size: tuple[int, int], limits: PixelLimits) -> tuple[int, int]:
    """Width and height of a frame of this size after `video_frame`; a side of 0 is too narrow."""
    low, high = limits.video_min_side, limits.video_max_side
    return _final_size(size, limits.video_multiple, low, high, smallest=0)[0]


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def is_final_frame(size: tuple[int, int], limits: PixelLimits) -> bool:
    """True for a frame that `video_frame` leaves as it is."""
    width, height = size
    low, high = limits.video_min_side**2, limits.video_max_side**2
    return low <= width * height <= high and not (
        width % limits.video_multiple or height % limits.video_multiple
    )


def read_final_frame(media: Media, limits: PixelLimits) -> UInt8[np.ndarray, "height width 3"] | None:
    """The pixels of a JPEG that is a frame of the final size, decoded at once; None for anything else.

    They are those of Pillow, as both decode by libjpeg-turbo. None also for a damaged file and for colours
    other than YCbCr: whatever Pillow makes of them counts.
    """
    if not isinstance(media, MediaBytes) or not media.data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(media.data)
        if colours != "YCbCr" or not is_final_frame((width, height), limits):
            return None
        return simplejpeg.decode_jpeg(media.data, "BGR" if media.bgr else "RGB")
    except ValueError:
        return None


def patchify(pixels: UInt8[np.ndarray, "height width 3"], patch_size: int) -> ImagePatches:
    """Splits an image into patches of `patch_size` pixels square, in 2x2-block order.

    Both sides must be multiples of twice the patch size, in pixels.
    """
    rows, columns = pixels.shape[0] // patch_size, pixels.shape[1] // patch_size
    blocks = pixels.reshape(rows // 2, 2, patch_size, columns // 2, 2, patch_size, 3)
    patches = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(rows * columns, -1)
    return ImagePatches(np.ascontiguousarray(patches), (rows, columns))


def _pad_or_resize(
    image: Image.Image, multiple: int, min_side: int, max_side: int, smallest: int
) -> Image.Image:
    """Resizes an area outside min_side² to max_side²; pads others with grey to multiples (quirk V2)."""
    size, is_padded = _final_size(image.size, multiple, min_side, max_side, smallest=smallest)
    if not is_padded:
        return Image.new("RGB", size) if min(size) == 0 else image.resize(size)
    if size == image.size:
        return _rgb(image)
    canvas = Image.new("RGB", size, GREY)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _final_size(
    size: tuple[int, int], multiple: int, min_side: int, max_side: int, smallest: int
) -> tuple[tuple[int, int], bool]:
    """Width and height of an image of this size after `_pad_or_resize`; True if it is padded."""
    width, height = size
    if width * height > max_side * max_side:
        return scale_size(size, max_side, multiple=multiple, smallest=smallest), False
    if width * height < min_side * min_side:
        return scale_size(size, min_side, multiple=multiple, smallest=smallest), False
    return (math.ceil(width / multiple) * multiple, math.ceil(height / multiple) * multiple), True


def scale_size(size: tuple[int, int], side: int, *, multiple: int, smallest: int) -> tuple[int, int]:
    """The size of about side² pixels, sides rounded down to multiples and at least `smallest` (quirk V1)."""
    scale = math.sqrt(side * side / (size[0] * size[1]))
    width, height = (max(int(length * scale / multiple) * multiple, smallest) for length in size)
    return width, height
