"""Sizes of media by their headers: functions that run in a decoding process.

A header may be wrong; decoding has limits of its own. This module imports neither JAX nor web libraries.
"""

import dataclasses

import av
from PIL import Image

from ola_jax.data.containers import is_picture, open_container
from ola_jax.data.media import BadMediaError, MediaFile

NOT_IT = "cannot be decoded"


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes from a header; 0 where it has none."""

    width: int = 0  # pixels
    height: int = 0
    frames: int = 0
    seconds: float = 0.0


def image_size(path: str) -> Size:
    """The size of an image. Raises BadMediaError for a file that is none."""
    try:
        with Image.open(path) as image:
            return Size(*image.size)
    except Exception as error:  # Pillow's readers raise nearly anything
        raise BadMediaError(NOT_IT) from error


def video_size(path: str) -> Size:
    """The size of a video, or of an animated image. Raises BadMediaError for a file that is none."""
    try:
        with open(path, "rb") as file:
            animated = file.read(12)
        if animated.startswith((b"GIF87a", b"GIF89a", b"RIFF")) and animated[8:12] != b"AVI ":
            with Image.open(path) as image:
                return Size(*image.size, frames=getattr(image, "n_frames", 1))
        with open_container(MediaFile("video", path)) as container:
            if is_picture(container) or not container.streams.video:
                raise BadMediaError("has no video stream")
            stream = container.streams.video[0]
            context = stream.codec_context
            width, height = (context.width, context.height) if context else (0, 0)
            return Size(width, height, max(stream.frames, 0), _seconds(container))
    except BadMediaError:
        raise
    except Exception as error:  # as above
        raise BadMediaError(NOT_IT) from error


def audio_size(path: str) -> Size:
    """The length of an audio file or a sound track. Raises BadMediaError for a file that is none."""
    try:
        with open_container(MediaFile("audio", path)) as container:
            if is_picture(container) or not container.streams.audio:
                raise BadMediaError("has no audio")
            return Size(seconds=_seconds(container))
    except BadMediaError:
        raise
    except Exception as error:  # as above
        raise BadMediaError(NOT_IT) from error


def _seconds(container: av.container.InputContainer) -> float:
    return max(float(container.duration or 0) / av.time_base, 0.0)
