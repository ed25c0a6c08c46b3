"""Images of more than 8 bits a sample: grey of 16 and 32 bits, and floats, reduced to 8 bits."""

import numpy as np
from PIL import Image, TiffImagePlugin

from ola_jax.errors import OlaError

RANGES = (255, 65_535, 2**31 - 1, 2**32 - 1)  # of the samples of an integer image
FLOAT_RANGES = (1.0, 255.0, 65_535.0)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Converts modes I;16, I and F to 8-bit grey; returns other modes as they are.

    16 bits lose the lower 8, as 16-bit colour does in Pillow. Files of 32-bit integers or floats do not state
    their range: it is taken to be the smallest that holds the largest sample, for integers of 0 to 255,
    65535, 2**31 - 1, 2**32 - 1, and for floats of 0 to 1, 255, 65535. Negative samples become black.
    Raises OlaError for NaN and larger floats.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        return _from_integers(image)
    return _from_floats(image) if image.mode == "F" else image


def _from_integers(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not _is_signed(image):
        samples = samples.view(np.uint32)  # Pillow reads unsigned 32 bits as signed ones
    largest = 65_535 if image.format in ("PNG", "PPM") else int(samples.max())
    shift = next(top for top in RANGES if largest <= top).bit_length() - 8
    return Image.fromarray((samples.clip(0) >> shift).clip(0, 255).astype(np.uint8))


def _is_signed(image: TiffImagePlugin.TiffImageFile) -> bool:
    bits, formats = (image.tag_v2.get(tag, (default,)) for tag, default in ((258, 1), (339, 1)))
    return tuple(formats)[:1] != (1,) or tuple(bits)[:1] != (32,)


def _from_floats(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    largest = float(samples.max())
    top = next((top for top in FLOAT_RANGES if largest <= top), None)  # None for NaN, too
    if top is None or not np.isfinite(samples).all():
        raise OlaError(f"float samples up to {largest:g}; expected 0 to 1, 0 to 255 or 0 to 65535")
    if top == 255:
        return image.convert("L")
    scaled = samples.clip(0) / 256 if top == 65_535 else samples.clip(0) * 255 + 0.5
    return Image.fromarray(scaled.astype(np.uint8))
