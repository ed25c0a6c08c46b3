"""Media as prepared shards store them: frames at the size of training, 16 kHz audio, or the files' bytes.

Like what it imports, it does not import `ola_jax.typing`: a process that decodes media starts without JAX.
"""

import dataclasses
import io

import numpy as np
import soundfile
from jaxtyping import Float
from PIL import Image

from ola_jax.config import SAMPLE_RATE
from ola_jax.data.decoding import DecodeSettings, decode_audio, decode_sound_track
from ola_jax.data.image import video_frame
from ola_jax.data.media import Media, MediaBytes, MediaFile, is_media_file, locate
from ola_jax.data.video import frame_indices, is_moving, read_frames


@dataclasses.dataclass(frozen=True)
class StoredVideo:
    """The frames of a video that the model sees, or its file."""

    frames: tuple[MediaBytes, ...] = ()
    file: MediaBytes | None = None
    is_exact: bool = True  # False: frames are compressed again


@dataclasses.dataclass(frozen=True)
class StoredAudio:
    """Audio at 16 kHz as a FLAC file."""

    file: MediaBytes
    is_exact: bool  # False: samples are rounded to 16 bits


def store_files(refs: tuple[object, ...], root: str | None, settings: DecodeSettings) -> list[MediaBytes]:
    """The bytes of all media that references name, as they are."""
    return [_content(media) for ref in refs for media in locate(ref, root, settings.media)]


def store_video(ref: object, root: str | None, settings: DecodeSettings, quality: int) -> StoredVideo:
    """The distinct frames that the model sees.

    Frames that are encoded images already are kept as they are. Those of a video file are resized as in
    training and encoded as JPEG of this quality; a video whose frames would be resized again by training is
    kept as a file.
    """
    refs = ref if isinstance(ref, list) else [ref]
    items = [media for item in refs for media in locate(item, root, settings.media)]
    if len(items) > 1 or not (is_media_file(ref) or is_moving(items[0])):
        shown = sorted(set(frame_indices(len(items), settings.pixels)))
        return StoredVideo(frames=tuple(_content(items[index]) for index in shown))
    reduce = lambda frame: video_frame(frame, settings.pixels, items[0].name)
    frames, _ = read_frames(
        items, settings.pixels, settings.media, single_image=not is_media_file(ref), reduce=reduce
    )
    if any(video_frame(frame, settings.pixels).size != frame.size for frame in frames):
        return StoredVideo(file=_content(items[0]))
    name = items[0].name
    encoded = (_jpeg(frame, quality) for frame in frames)
    return StoredVideo(
        tuple(MediaBytes(f"{name} frame {number}.jpg", data) for number, data in enumerate(encoded)),
        is_exact=False,
    )


def store_audio(ref: object, root: str | None, settings: DecodeSettings) -> StoredAudio:
    """The audio of a file or of items of a patch file, concatenated."""
    return _flac(decode_audio(ref, root, settings), _name(ref, root, settings))


def store_sound_track(ref: object, root: str | None, settings: DecodeSettings) -> StoredAudio | None:
    """The sound track of a video file; None for a silent one."""
    waveform = decode_sound_track(ref, root, settings)
    return None if waveform is None else _flac(waveform, _name(ref, root, settings))


def _name(ref: object, root: str | None, settings: DecodeSettings) -> str:
    return locate(ref, root, settings.media)[0].name


def _content(media: Media) -> MediaBytes:
    return MediaBytes(media.name, media.read(), is_file=True) if isinstance(media, MediaFile) else media


def _jpeg(frame: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    frame.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _flac(waveform: Float[np.ndarray, "samples"], name: str) -> StoredAudio:
    scaled = np.rint(waveform * np.float32(2**15))
    samples = np.clip(scaled, -(2**15), 2**15 - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    is_exact = bool((samples.astype(np.float32) / 2**15 == waveform).all())
    return StoredAudio(MediaBytes(f"{name} 16 kHz.flac", file.getvalue(), is_file=True), is_exact)
