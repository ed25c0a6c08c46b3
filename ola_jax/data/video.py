"""Videos: decoding the frames that the model sees."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import av
import numpy as np
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data.containers import describe_failure, is_picture, limit_threads, open_container
from ola_jax.data.image import check_pixels, open_image, read_image
from ola_jax.data.media import LIMITS, BadMediaError, Media, MediaFile
from ola_jax.data.orientation import SIDEWAYS, Transpose, orientation
from ola_jax.data.seeking import WORTH, cost, decode_runs, read_packets
from ola_jax.errors import first_line

Frame = TypeVar("Frame")  # what is kept of a decoded frame
Reduce = Callable[[Image.Image], Frame]

_SINGLE_IMAGE = "is a single image, not a video; give it as 'image', or in a list of frames"


def frame_indices(count: int, limits: PixelLimits) -> list[int]:
    """The numbers of the frames, of `count`, that the model sees: evenly spaced, first and last included.

    Of a video of at most `max_frames` frames it sees all, or, with `repeat_frames`, `max_frames` by
    repetition (quirk T7).
    """
    if count > limits.max_frames or limits.repeat_frames:
        return np.linspace(0, count - 1, limits.max_frames, dtype=int).tolist()
    return list(range(count))


def read_frames(
    items: Sequence[Media],
    limits: PixelLimits,
    media_limits: MediaLimits = LIMITS,
    *,
    reduce: Reduce[Frame],
    read_reduced: Callable[[Media], Frame | None] = lambda media: None,
    single_image: bool = False,
) -> tuple[list[Frame], list[int]]:
    """The distinct frames that the model sees, and for each frame shown its index in that list.

    `items` is one video file, or the frames themselves as encoded images. A file that is a single image is a
    video of one frame with `single_image` (bytes always are), and otherwise an error. The frames of a video
    are upright, as its display matrix says, and all in the size of the first. Each is passed to `reduce`, in
    RGB, as soon as it is decoded, so that not all are in memory at full size; `read_reduced` reads those of
    the frames given as images that it can, in one go. Raises OlaError for a file that
    is not a video, is broken, has no frames, or has more or larger ones than the limits allow.
    """
    kind = "frames" if len(items) > 1 else _kind(items[0])
    if kind == "image" and not single_image and _is_file(items[0]):
        raise BadMediaError(f"{items[0].name}: {_SINGLE_IMAGE}")
    if kind in ("frames", "image"):
        shown = frame_indices(len(items), limits)
        frames = {}
        for i in sorted(set(shown)):
            frame = read_reduced(items[i])
            frames[i] = reduce(read_image(items[i], True, media_limits)) if frame is None else frame
    elif kind == "animation":
        shown, frames = _animation(items[0], limits, media_limits, reduce)
    else:
        shown, frames = _video(items[0], limits, media_limits, reduce)
    positions = {index: position for position, index in enumerate(frames)}
    return list(frames.values()), [positions[index] for index in shown]


def measure_video(
    media: Media, limits: PixelLimits, media_limits: MediaLimits = LIMITS
) -> tuple[int, tuple[int, int]]:
    """The number of frames of a video file, and their width and height, without converting them.

    The number is that of the header where the packets confirm it, and a few frames more or less would not
    matter; otherwise all are decoded. Raises OlaError, or anything else, for media that are no video.
    """
    if _kind(media) != "video":
        raise BadMediaError(f"{media.name}: is not a video")
    confirmed = None
    with open_container(media) as container:
        stream = _stream(container, media)
        if 2 * limits.max_frames <= stream.frames <= media_limits.video_frames:
            packets = read_packets(container, stream)
            confirmed = stream.frames if packets and len(packets.times) == stream.frames else None
    count, size = 0, (0, 0)
    with open_container(media) as container:
        stream = _stream(container, media)
        limit_threads(stream)
        for frame in container.decode(stream):
            found = frame.width, frame.height
            check_pixels(media, found, limit=media_limits.frame_pixels, name="frame_pixels")
            if count == 0:
                size = found[::-1] if orientation(frame) in SIDEWAYS else found
            if confirmed:
                return confirmed, size
            count += 1
            _check_count(media, count, media_limits)
    return count, size


def is_moving(media: Media) -> bool:
    """True for a video or an animation, False for a single image."""
    return _kind(media) != "image"


def _is_file(media: Media) -> bool:
    return isinstance(media, MediaFile) or media.is_file


def _kind(media: Media) -> Literal["image", "animation", "video"]:
    """A single image, an animation that FFmpeg cannot decode, or anything else (tried as a video)."""
    try:
        with open_image(media) as image:
            moving = image.format != "TIFF" and image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            if moving or image.format == "MPEG":  # Pillow only recognizes the latter
                return "animation" if image.format == "WEBP" else "video"
            return "video" if image.format == "GIF" and _is_file(media) else "image"
    except Exception:  # Pillow raises nearly anything for bytes that are not an image
        return "video"


def _animation(
    media: Media, limits: PixelLimits, media_limits: MediaLimits, reduce: Reduce[Frame]
) -> tuple[list[int], dict[int, Frame]]:
    try:
        with open_image(media) as image:
            check_pixels(media, image.size, limit=media_limits.frame_pixels, name="frame_pixels")
            count: int = getattr(image, "n_frames", 1)
            _check_count(media, count, media_limits)
            shown, frames = frame_indices(count, limits), {}
            for index in sorted(set(shown)):
                image.seek(index)
                frames[index] = reduce(image.convert("RGB"))
            return shown, frames
    except BadMediaError:
        raise
    except Exception as error:  # as for other images
        raise BadMediaError(f"{media.name}: cannot be read as a video ({first_line(error)})") from error


def _video(
    media: Media, limits: PixelLimits, media_limits: MediaLimits, reduce: Reduce[Frame]
) -> tuple[list[int], dict[int, Frame]]:
    try:
        count = _likely_count(media, media_limits)
        shown = frame_indices(count, limits) if count else []
        if (found := _decode_sparsely(media, shown, count, media_limits, reduce)) is not None:
            return shown, found
        decoded, frames = _decode(media, set(shown), media_limits, reduce)
        if decoded != count and decoded:  # not every packet is a frame, or the header is wrong: choose again
            frames.clear()  # before others take memory
            shown = frame_indices(decoded, limits)
            _, frames = _decode(media, set(shown), media_limits, reduce)
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as a video ({describe_failure(error)})") from error
    if not frames:
        raise BadMediaError(f"{media.name}: the video has no frames; replace or remove it")
    return shown, frames


def _likely_count(media: Media, limits: MediaLimits) -> int:
    """The number of frames by the header, or, if the header has no plausible one, by the packets."""
    with open_container(media) as container:
        stream = _stream(container, media)
        if 0 < stream.frames <= limits.video_frames:
            return stream.frames
        count = 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if count > 2 * limits.video_frames:  # a frame may be two fields in two packets
                break
        return count


def _decode_sparsely(
    media: Media, shown: list[int], count: int, limits: MediaLimits, reduce: Reduce[Frame]
) -> dict[int, Frame] | None:
    """The frames that are shown, decoded from the keyframes before them; None if all must be decoded.

    The number of frames is that of the header, and of the packets; it is not verified by decoding.
    """
    wanted = sorted(set(shown))
    if count < 2 * len(wanted):
        return None
    with open_container(media) as container:
        stream = _stream(container, media)
        packets = read_packets(container, stream) if stream.frames == count else None
        if packets is None or len(packets.times) != count:
            return None
    times = packets.frame_times()
    runs = packets.runs([times[index] for index in wanted])
    if cost(runs, packets) > WORTH:
        return None
    frames: dict[int, Frame] = {}
    with contextlib.suppress(av.FFmpegError), open_container(media) as container:
        stream = _stream(container, media)
        limit_threads(stream)
        for index, frame in zip(wanted, decode_runs(container, stream, runs), strict=False):
            check_pixels(media, (frame.width, frame.height), limit=limits.frame_pixels, name="frame_pixels")
            if not frames:
                size, transpose = (frame.width, frame.height), orientation(frame)
            frames[index] = reduce(_upright(frame, size, transpose))
    return frames if len(frames) == len(wanted) else None


def _decode(
    media: Media, wanted: set[int], limits: MediaLimits, reduce: Reduce[Frame]
) -> tuple[int, dict[int, Frame]]:
    """The number of all frames, and the wanted ones in order of time."""
    count, frames = 0, {}
    with open_container(media) as container:
        stream = _stream(container, media)
        limit_threads(stream)
        for frame in container.decode(stream):
            check_pixels(media, (frame.width, frame.height), limit=limits.frame_pixels, name="frame_pixels")
            if count == 0:  # of the first only: PyAV keeps a frame whose side data were read in memory
                size, transpose = (frame.width, frame.height), orientation(frame)
            if count in wanted:
                frames[count] = reduce(_upright(frame, size, transpose))
            count += 1
            _check_count(media, count, limits)
    return count, frames


def _upright(frame: av.VideoFrame, size: tuple[int, int], transpose: Transpose | None) -> Image.Image:
    """The frame as the original's decoder returns it: RGB (quirk T8), in the size of the first, upright."""
    if (frame.width, frame.height) != size:
        frame = frame.reformat(*size)
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return image if transpose is None else image.transpose(transpose)


def _check_count(media: Media, count: int, limits: MediaLimits) -> None:
    if count > limits.video_frames:
        raise BadMediaError(
            f"{media.name}: more than {limits.video_frames} frames, the most that are decoded "
            "(video_frames); shorten it or raise the limit"
        )


def _stream(container: av.container.InputContainer, media: Media) -> av.VideoStream:
    """The first video stream that can be decoded, and is not the cover art of an audio file."""
    if is_picture(container):
        raise BadMediaError(f"{media.name}: {_SINGLE_IMAGE}")
    art = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & art]
    if not streams:
        raise BadMediaError(f"{media.name}: has no video stream; expected a video file")
    stream = next((s for s in streams if s.codec_context is not None), None)
    if stream is None:
        raise BadMediaError(f"{media.name}: its video is in a format that cannot be decoded; convert it")
    return stream
