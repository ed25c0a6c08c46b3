"""Decoding the media of a record for a sample, by functions that another process may run.

Like what it imports, it does not import `ola_jax.typing`, so that such a process starts without JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple, runtime_checkable

import numpy as np
from jaxtyping import Float
from PIL import Image

from ola_jax.config import SAMPLE_RATE, MediaLimits, PixelLimits
from ola_jax.data.audio import read_audio, read_sound_track
from ola_jax.data.image import enlarge, image_views, patchify, read_final_frame, read_image, video_frame
from ola_jax.data.media import BadMediaError, Media, is_media_file, locate
from ola_jax.data.sample import ImagePatches
from ola_jax.data.video import read_frames
from ola_jax.errors import OlaError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@runtime_checkable
class Decode(Protocol):
    """Calls a function that decodes media, in this process or in another."""

    def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Returns the function's result; the first argument names the media."""


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """The settings with which media are decoded for a model."""

    pixels: PixelLimits
    media: MediaLimits
    patch_size: int  # pixels
    to_rgb: bool  # convert images to RGB at once, as in training
    max_seconds: float  # the longest audio that fits into a sample


def in_process(function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Calls the function in this process."""
    return function(*arguments)


def decode_images(refs: tuple[object, ...], root: str | None, settings: DecodeSettings) -> list[ImagePatches]:
    """The views of images in order, two each: low and high resolution; or the latter alone."""
    images: list[ImagePatches] = []
    for ref in refs:
        for media in locate(ref, root, settings.media):
            image = read_image(media, settings.to_rgb, settings.media)
            try:
                views = image_views(enlarge(image, settings.pixels.smallest_image_side), settings.pixels)
            except (ValueError, MemoryError) as error:
                size = f"{image.width}x{image.height}"
                raise BadMediaError(f"{media.name}: {size} pixels cannot be resized; crop it") from error
            kept = views[1:] if settings.pixels.high_view_only else views
            images += [patchify(np.asarray(view), settings.patch_size) for view in kept]
    return images


def image_sizes(
    refs: tuple[object, ...], root: str | None, settings: DecodeSettings
) -> list[tuple[int, int]]:
    """Width and height of each image in pixels, from the headers; empty if one cannot be read."""
    sizes = []
    for media in [media for ref in refs for media in locate(ref, root, settings.media)]:
        try:
            with Image.open(media.open()) as image:
                sizes.append(image.size)
        except Exception:  # `read_image` reports what is wrong with it
            return []
    return sizes


def decode_video(
    ref: object, root: str | None, settings: DecodeSettings
) -> tuple[list[ImagePatches], list[int]]:
    """The distinct frames of a video that the model sees, and for each frame shown its index among them.

    The video is a file, or its frames: a list of images, or of byte ranges in a patch file.
    """
    refs = ref if isinstance(ref, list) else [ref]
    items = [media for item in refs for media in locate(item, root, settings.media)]
    reduce = lambda frame: patchify(
        np.asarray(video_frame(frame, settings.pixels, items[0].name)), settings.patch_size
    )

    def read_reduced(media: Media) -> ImagePatches | None:
        turned = settings.media.exif_orientation
        pixels = None if turned else read_final_frame(media, settings.pixels)
        return None if pixels is None else patchify(pixels, settings.patch_size)

    frames, shown = read_frames(
        items,
        settings.pixels,
        settings.media,
        single_image=not is_media_file(ref),
        reduce=reduce,
        read_reduced=read_reduced,
    )
    if len({frame.grid for frame in frames}) > 1:
        raise OlaError(f"{items[0].name}: the frames of the video differ in size; resize them to one size")
    return frames, shown


def decode_audio(ref: object, root: str | None, settings: DecodeSettings) -> Float[np.ndarray, "samples"]:
    """The audio of a file, or of several byte ranges in a patch file, concatenated."""
    parts, longest = [], settings.max_seconds
    for media in locate(ref, root, settings.media):
        parts.append(read_audio(media, settings.media, longest))
        if sum(map(len, parts)) > longest * SAMPLE_RATE:
            raise BadMediaError(
                f"{media.name}: the {len(parts)} audio items up to here are longer than {longest:g} seconds "
                "together, the longest that is accepted; shorten them"
            )
    return np.concatenate(parts)


def decode_sound_track(
    ref: object, root: str | None, settings: DecodeSettings
) -> Float[np.ndarray, "samples"] | None:
    """The sound track of a video file; None for a silent one."""
    return read_sound_track(locate(ref, root, settings.media)[0], settings.media, settings.max_seconds)
