"""Videos: decoding the frames that the model sees."""

from collections.abc import Callable
from typing import Any

import av
import numpy as np
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data.containers import is_picture, limit_threads, open_container, reason
from ola_jax.data.image import check_pixels, open_image, read_image
from ola_jax.data.media import LIMITS, BadMediaError, Media
from ola_jax.data.orientation import Transpose, orientation
from ola_jax.errors import first_line

Reduce = Callable[[Image.Image], Any]


def frame_indices(count: int, limits: PixelLimits) -> list[int]:
    """Which of `count` frames the model sees: evenly spaced, rounded down, first and last included.

    A video of at most `max_frames` frames is taken whole, or, with `repeat_frames`, stretched to
    `max_frames` by repeating frames (quirk T7).
    """
    if count > limits.max_frames or limits.repeat_frames:
        return np.linspace(0, count - 1, limits.max_frames, dtype=int).tolist()
    return list(range(count))


def read_frames(
    items: list[Media],
    limits: PixelLimits,
    media_limits: MediaLimits = LIMITS,
    *,
    single_image: bool = False,
    reduce: Reduce = lambda frame: frame,
) -> tuple[list[Any], list[int]]:
    """The distinct frames that the model sees, RGB, and for each frame shown its place in that list.

    `items` is one video file, or the frames themselves as encoded images. One file that is a single image is
    a video of one frame with `single_image` (bytes always are), or else an error. The frames of a video come
    upright, as the display matrix says, all in the size of the first. Each goes through `reduce` when it is
    decoded, so that not all are in memory in full size. Raises OlaError for a file that is not a video, is
    broken, has no frames, or larger or more ones than the limits allow.
    """
    kind = "frames" if len(items) > 1 else _kind(items[0])
    if kind == "image" and not single_image and items[0].path is not None:
        raise BadMediaError(f"{items[0].name}: is a single image, not a video")
    if kind in ("frames", "image"):
        shown = frame_indices(len(items), limits)
        frames = {i: reduce(read_image(items[i], True, media_limits)) for i in sorted(set(shown))}
    elif kind == "animation":
        shown, frames = _animation(items[0], limits, media_limits, reduce)
    else:
        shown, frames = _video(items[0], limits, media_limits, reduce)
    place = {index: position for position, index in enumerate(frames)}
    return list(frames.values()), [place[index] for index in shown]


def _kind(media: Media) -> str:
    """What Pillow takes it for: a single image, an animation that FFmpeg cannot decode, or neither."""
    try:
        with open_image(media) as image:
            moving = image.format != "TIFF" and image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            if moving or image.format == "MPEG":  # the latter is recognised only
                return "animation" if image.format == "WEBP" else "video"
            return "video" if image.format == "GIF" and media.path is not None else "image"
    except Exception:  # whatever Pillow says of bytes that are not an image
        return "video"


def _animation(
    media: Media, limits: PixelLimits, media_limits: MediaLimits, reduce: Reduce
) -> tuple[list[int], dict[int, Any]]:
    try:
        with open_image(media) as image:
            check_pixels(media, image.size, media_limits.frame_pixels, "frame_pixels")
            _check_count(media, image.n_frames, media_limits)
            shown, frames = frame_indices(image.n_frames, limits), {}
            for index in sorted(set(shown)):
                image.seek(index)
                frames[index] = reduce(image.convert("RGB"))
            return shown, frames
    except BadMediaError:
        raise
    except Exception as error:  # as of other images
        raise BadMediaError(f"{media.name}: cannot be read as a video ({first_line(error)})") from error


def _video(
    media: Media, limits: PixelLimits, media_limits: MediaLimits, reduce: Reduce
) -> tuple[list[int], dict[int, Any]]:
    try:
        count = _claimed(media, media_limits)
        shown = frame_indices(count, limits) if count else []
        decoded, frames = _decode(media, set(shown), media_limits, reduce)
        if decoded != count and decoded:  # not every packet is a frame, or the header is wrong: choose again
            frames = {}
            shown = frame_indices(decoded, limits)
            _, frames = _decode(media, set(shown), media_limits, reduce)
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as a video ({reason(error)})") from error
    if not frames:
        raise BadMediaError(f"{media.name}: the video has no frames")
    return shown, frames


def _claimed(media: Media, limits: MediaLimits) -> int:
    """How many frames it seems to have: by its header, or by its packets if that says nothing likely."""
    with open_container(media) as container:
        stream = _stream(container, media)
        if 0 < stream.frames <= limits.video_frames:
            return stream.frames
        count = 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if count > 2 * limits.video_frames:  # two fields may be a frame
                break
        return count


def _decode(
    media: Media, wanted: set[int], limits: MediaLimits, reduce: Reduce
) -> tuple[int, dict[int, Any]]:
    """The number of all frames, and those wanted, in order of time."""
    count, frames = 0, {}
    with open_container(media) as container:
        stream = _stream(container, media)
        limit_threads(stream)
        for frame in container.decode(stream):
            check_pixels(media, (frame.width, frame.height), limits.frame_pixels, "frame_pixels")
            if count == 0:  # alone: PyAV keeps a frame in memory for a while whose side data were read
                size, turn = (frame.width, frame.height), orientation(frame)
            if count in wanted:
                frames[count] = reduce(_upright(frame, size, turn))
            count += 1
            _check_count(media, count, limits)
    return count, frames


def _upright(frame: av.VideoFrame, size: tuple[int, int], turn: Transpose | None) -> Image.Image:
    """The frame as the original's decoder gives it: RGB (quirk T8), in the first one's size, turned."""
    if (frame.width, frame.height) != size:
        frame = frame.reformat(*size)
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return image if turn is None else image.transpose(turn)


def _check_count(media: Media, count: int, limits: MediaLimits) -> None:
    if count > limits.video_frames:
        allowed = f"at most {limits.video_frames} are decoded (video_frames)"
        raise BadMediaError(f"{media.name}: more than {limits.video_frames} frames, {allowed}")


def _stream(container: av.container.InputContainer, media: Media) -> av.VideoStream:
    """The moving pictures that can be decoded, not the cover art of an audio file."""
    if is_picture(container):
        raise BadMediaError(f"{media.name}: is a single image, not a video")
    art = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & art]
    if not streams:
        raise BadMediaError(f"{media.name}: has no video stream, expected a video file")
    stream = next((s for s in streams if s.codec_context is not None), None)
    if stream is None:
        raise BadMediaError(f"{media.name}: its pictures are in a format that cannot be decoded")
    return stream
