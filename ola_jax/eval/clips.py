"""Parts of videos as frames, for benchmarks that ask about a part; lengths of videos."""

import functools
import pathlib

import numpy as np

from ola_jax.data.media import BadMediaError
from ola_jax.errors import first_line
from ola_jax.eval.items import Clip

PICTURES = (".jpg", ".jpeg", ".png")


def cut_clip(clip: Clip, frames: int, folder: str, settings: object = None) -> list[str]:
    """Paths of at most `frames` frames, evenly spaced over the clip: pictures of a folder, or written as PNG.

    Raises BadMediaError for media that cannot be read or have no frame there.
    """
    if clip.path.is_dir():
        pictures = sorted(file for file in clip.path.iterdir() if file.suffix.lower() in PICTURES)
        rate = clip.frames_per_second or 1.0
        chosen = [i for i in range(len(pictures)) if _inside(i / rate, clip)]
        return [str(pictures[i]) for i in _evenly(chosen, frames, clip)]
    try:
        times = _frame_times(clip.path)
        wanted = _evenly([i for i, t in enumerate(times) if _inside(t, clip)], frames, clip)
        return _write_frames(clip.path, sorted(set(wanted)), pathlib.Path(folder), wanted)
    except BadMediaError:
        raise
    except Exception as error:  # libav raises nearly anything on broken files
        raise BadMediaError(f"{clip.path}: cannot be read as a video ({first_line(error)})") from error


@functools.lru_cache(maxsize=1024)
def duration(video: pathlib.Path) -> float:
    """The length of a video in seconds."""
    import av

    try:
        with av.open(str(video)) as container:
            if container.duration is None:
                raise BadMediaError(f"{video}: its length is not known")
            return float(container.duration / av.time_base)
    except (OSError, av.FFmpegError) as error:
        raise BadMediaError(f"{video}: cannot be read as a video ({first_line(error)})") from error


def _inside(time: float, clip: Clip) -> bool:
    return (clip.start is None or time >= clip.start) and (clip.end is None or time <= clip.end)


def _evenly(inside: list[int], frames: int, clip: Clip) -> list[int]:
    if not inside:
        raise BadMediaError(f"{clip.path}: no frame from {clip.start} to {clip.end} seconds")
    return [inside[i] for i in np.linspace(0, len(inside) - 1, min(frames, len(inside)), dtype=int)]


def _frame_times(path: pathlib.Path) -> list[float]:
    """The times of all frames in seconds from the first, in order."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(stream) if frame.time is not None]
    return [time - times[0] for time in times] if times else []


def _write_frames(
    path: pathlib.Path, numbers: list[int], folder: pathlib.Path, order: list[int]
) -> list[str]:
    import av

    files: dict[int, str] = {}
    wanted = set(numbers)
    with av.open(str(path)) as container:
        for number, frame in enumerate(f for f in container.decode(video=0) if f.pts is not None):
            if number in wanted:
                file = folder / f"frame_{number:06}.png"
                frame.to_image().save(file)
                files[number] = str(file)
    return [files[number] for number in order if number in files]
