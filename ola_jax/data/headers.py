"""Sizes of media from their headers: samples that are only measured need not be decoded.

Media are decoded where a header does not suffice, or where anything is wrong with them: their failure is then
that of decoding. Functions return what those of `decoding` return, without pixels and with silent audio. Like
what it imports, it does not import `ola_jax.typing`: a process that decodes media starts without JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
from jaxtyping import Float

from ola_jax.config import SAMPLE_RATE
from ola_jax.data.audio import header_length
from ola_jax.data.decoding import Decode, DecodeSettings, decode_audio, decode_images, decode_video
from ola_jax.data.image import frame_size, header_size, view_sizes
from ola_jax.data.media import is_media_file, locate
from ola_jax.data.sample import ImagePatches
from ola_jax.data.video import frame_indices, is_moving, measure_video

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Size = tuple[int, int]  # width and height in pixels


@dataclasses.dataclass(frozen=True)
class HeaderDecode:
    """Stands in for `decode` of a processor whose samples are only measured."""

    decode: Decode

    def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Returns a result of the size of the function's."""
        measure: Any = _WITH_HEADERS.get(function, function)
        result: T = self.decode(measure, *arguments)
        return result


def size_images(refs: tuple[object, ...], root: str | None, settings: DecodeSettings) -> list[ImagePatches]:
    """The views of images as `decode_images` returns them, without pixels."""
    try:
        items = [media for ref in refs for media in locate(ref, root, settings.media)]
        sizes = [header_size(media, settings.media) for media in items]
        views = [view for size in sizes if size for view in view_sizes(size, settings.pixels)]
    except Exception:  # decoding tells what is wrong
        return decode_images(refs, root, settings)
    if not all(sizes):
        return decode_images(refs, root, settings)
    return [_empty(view, settings) for view in views]


def size_video(
    ref: object, root: str | None, settings: DecodeSettings
) -> tuple[list[ImagePatches], list[int]]:
    """The frames of a video as `decode_video` returns them, without pixels."""
    try:
        sizes, shown = _frame_sizes(ref, root, settings)
    except Exception:
        return decode_video(ref, root, settings)
    if not sizes or not all(sizes) or len(set(sizes)) > 1 or min(sizes[0] or (0,)) == 0:
        return decode_video(ref, root, settings)
    return [_empty(size, settings) for size in sizes if size], shown


def size_audio(ref: object, root: str | None, settings: DecodeSettings) -> Float[np.ndarray, "samples"]:
    """Silence as long as the audio that `decode_audio` returns."""
    try:
        lengths = [
            header_length(media, settings.media, settings.max_seconds)
            for media in locate(ref, root, settings.media)
        ]
    except Exception:
        lengths = [None]
    total = sum(length or 0 for length in lengths)
    if not all(lengths) or total > settings.max_seconds * SAMPLE_RATE:
        return decode_audio(ref, root, settings)
    return np.broadcast_to(np.float32(0), (total,))


_WITH_HEADERS: dict[Callable[..., Any], Callable[..., Any]] = {
    decode_images: size_images,
    decode_video: size_video,
    decode_audio: size_audio,
}


def _frame_sizes(
    ref: object, root: str | None, settings: DecodeSettings
) -> tuple[list[Size | None], list[int]]:
    """The sizes of the frames that the model sees, and for each frame shown its index among them."""
    refs = ref if isinstance(ref, list) else [ref]
    items = [media for item in refs for media in locate(item, root, settings.media)]
    sizes: dict[int, Size | None]
    if len(items) == 1 and (is_media_file(ref) or is_moving(items[0])):
        count, size = measure_video(items[0], settings.pixels, settings.media)
        shown = frame_indices(count, settings.pixels)
        sizes = dict.fromkeys(sorted(set(shown)), size)
    else:
        shown = frame_indices(len(items), settings.pixels)
        sizes = {index: header_size(items[index], settings.media) for index in sorted(set(shown))}
    positions = {index: position for position, index in enumerate(sizes)}
    finals = [size and frame_size(size, settings.pixels) for size in sizes.values()]
    return finals, [positions[index] for index in shown]


def _empty(size: Size, settings: DecodeSettings) -> ImagePatches:
    """Patches of no bytes, of an image of this size."""
    grid = size[1] // settings.patch_size, size[0] // settings.patch_size
    return ImagePatches(np.zeros((grid[0] * grid[1], 0), np.uint8), grid)
