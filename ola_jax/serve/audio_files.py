"""Spoken audio as a complete file, with its length in the header."""

import io
from collections.abc import Mapping
from typing import Literal

import av
import numpy as np

from ola_jax.speech.voice import SPEECH_RATE

AudioFormat = Literal["wav", "flac", "mp3", "opus", "aac", "pcm"]
MEDIA_TYPES: Mapping[AudioFormat, str] = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
}
# Container, codec, and the sample format that the codec takes.
_CODECS: Mapping[AudioFormat, tuple[str, str, str]] = {
    "wav": ("wav", "pcm_s16le", "s16"),
    "flac": ("flac", "flac", "s16"),
    "mp3": ("mp3", "libmp3lame", "s16p"),
    "opus": ("ogg", "libopus", "s16"),
    "aac": ("adts", "aac", "fltp"),
}


def encode_audio(pcm: bytes, kind: AudioFormat) -> bytes:
    """A file of 16-bit little-endian PCM (mono, SPEECH_RATE); "pcm": the same bytes.

    Without any audio the other formats have one sample of silence: codecs write no file without samples.
    """
    if kind == "pcm":
        return pcm
    container, codec, sample_format = _CODECS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=SPEECH_RATE, layout="mono", format=sample_format)
        assert isinstance(stream, av.AudioStream)
        samples = np.frombuffer(pcm or bytes(2), "<i2").astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = SPEECH_RATE, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()
