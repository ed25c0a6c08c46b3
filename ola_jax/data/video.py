"""Videos: decoding the frames that the model sees."""

import av
import numpy as np
from PIL import Image

from ola_jax.config import PixelLimits
from ola_jax.data.image import read_image
from ola_jax.data.media import BadMediaError, Media
from ola_jax.data.tokenizer import first_line


def frame_indices(count: int, limits: PixelLimits) -> list[int]:
    """Which of `count` frames the model sees: evenly spaced, rounded down, first and last included.

    A video of at most `max_frames` frames is taken whole, or, with `repeat_frames`, stretched to
    `max_frames` by repeating frames.
    """
    if count > limits.max_frames or limits.repeat_frames:
        return np.linspace(0, count - 1, limits.max_frames, dtype=int).tolist()
    return list(range(count))


def read_frames(items: list[Media], limits: PixelLimits) -> tuple[list[Image.Image], list[int]]:
    """The distinct frames that the model sees, RGB, and for each frame shown its place in that list.

    `items` is one video file, or the frames themselves as encoded images. Raises OlaError for a file
    that is not a video, is broken, or has no frames.
    """
    if len(items) > 1 or (items[0].path is None and _is_image(items[0])):
        shown = frame_indices(len(items), limits)
        frames = {index: read_image(items[index], to_rgb=True) for index in sorted(set(shown))}
    else:
        shown, frames = _decode(items[0], limits)
    place = {index: position for position, index in enumerate(frames)}
    return list(frames.values()), [place[index] for index in shown]


def _decode(media: Media, limits: PixelLimits) -> tuple[list[int], dict[int, Image.Image]]:
    try:
        with av.open(media.open()) as container:
            _check_video(container, media)
            count = _streams(container)[0].frames
        if not count:  # not every container says
            count, _ = _decode_only(media, set())
        shown = frame_indices(count, limits) if count else []
        decoded, frames = _decode_only(media, set(shown))
        if decoded != count and decoded:  # the header is wrong: choose again, by what is there
            shown = frame_indices(decoded, limits)
            _, frames = _decode_only(media, set(shown))
    except (av.FFmpegError, ValueError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as a video ({first_line(error)})") from error
    if not frames:
        raise BadMediaError(f"{media.name}: the video has no frames")
    return shown, frames


def _decode_only(media: Media, wanted: set[int]) -> tuple[int, dict[int, Image.Image]]:
    """The number of all frames, and those wanted, in order of time."""
    count, frames = 0, {}
    with av.open(media.open()) as container:
        for frame in container.decode(_streams(container)[0]):
            if count in wanted:
                frames[count] = Image.fromarray(frame.to_ndarray(format="rgb24"))
            count += 1
    return count, frames


def _streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The moving pictures, not the cover art of a sound file."""
    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


def _check_video(container: av.container.InputContainer, media: Media) -> None:
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise BadMediaError(f"{media.name}: is a single image, not a video")
    if not _streams(container):
        raise BadMediaError(f"{media.name}: has no video stream, expected a video file")


def _is_image(media: Media) -> bool:
    try:
        with Image.open(media.open()):
            return True
    except Exception:  # whatever Pillow says of bytes that are not an image
        return False
