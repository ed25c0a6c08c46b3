"""Sound: decoding to 16 kHz mono, and cutting into the chunks that the encoders take."""

import os

import av
import librosa
import numpy as np
import soundfile

from ola_jax.config import SAMPLE_RATE
from ola_jax.data.media import BadMediaError, Media
from ola_jax.data.tokenizer import first_line
from ola_jax.typing import Array, Float

# Formats of libsndfile: a file with one of these names that it cannot read is not what its name says.
_SOUND_FILES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")


def read_audio(media: Media) -> Float[Array, "samples"]:
    """Decode a sound file, or the sound track of a video file, to 16 kHz mono in [-1, 1].

    Channels are averaged, then resampled by soxr's high-quality filter, as librosa.load does. Raises
    OlaError for a file that is not sound, is broken, or has no samples.
    """
    try:
        samples, rate = soundfile.read(media.open(), dtype="float32", always_2d=True)
        waveform = _to_model_rate(samples.mean(axis=1), rate)
    except soundfile.SoundFileError as error:
        if os.path.splitext(media.path or "")[1].lower() in _SOUND_FILES:
            raise BadMediaError(f"{media.name}: cannot be read as sound ({first_line(error)})") from error
        waveform = read_sound_track(media)
    if waveform is None:
        raise BadMediaError(f"{media.name}: has no sound track; expected a sound file or a video with sound")
    if not len(waveform):
        raise BadMediaError(f"{media.name}: the sound has no samples (zero length)")
    if not np.isfinite(waveform).all():
        raise BadMediaError(f"{media.name}: the sound has samples that are not finite")
    return waveform


def read_sound_track(media: Media) -> Float[Array, "samples"] | None:
    """The first sound track of a container (mp4, webm, m4a, ...) at 16 kHz mono; None if it is silent."""
    try:
        with av.open(media.open()) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            rate = stream.rate
            to_float = av.AudioResampler(format="fltp")
            blocks = [
                block.to_ndarray().mean(axis=0)
                for frame in container.decode(stream)
                for block in to_float.resample(frame)
            ]
    except (av.FFmpegError, ValueError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as sound ({first_line(error)})") from error
    return _to_model_rate(np.concatenate(blocks), rate) if blocks else None


def chunk(waveform: Float[Array, "samples"], chunk_samples: int) -> Float[Array, "c T"]:
    """Cut into chunks of `chunk_samples` (at 16 kHz), the last one zero padded; nothing is dropped."""
    count = -(-len(waveform) // chunk_samples)
    padded = np.zeros(count * chunk_samples, np.float32)
    padded[: len(waveform)] = waveform
    return padded.reshape(count, chunk_samples)


def _to_model_rate(waveform: Float[Array, "samples"], rate: int) -> Float[Array, "resampled"]:
    if rate == SAMPLE_RATE or not len(waveform):
        return waveform
    return librosa.resample(waveform, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq")
