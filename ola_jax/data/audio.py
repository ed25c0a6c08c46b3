"""Audio: decoding to 16 kHz mono, and cutting into the chunks that the encoders take."""

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from ola_jax.config import SAMPLE_RATE, MediaLimits
from ola_jax.data.chained_ogg import links
from ola_jax.data.containers import is_picture, limit_threads, open_container, reason
from ola_jax.data.media import LIMITS, BadMediaError, Media
from ola_jax.errors import first_line

Block = tuple[int, np.ndarray]  # sample rate in Hz, samples of all channels [length, channels]

BLOCK = 2**18  # samples, of all channels together, that are decoded at a time
JOINED = ("MP3", "MPEG")  # formats that libsndfile may read in part, and FFmpeg to the end


def read_audio(
    media: Media, limits: MediaLimits = LIMITS, max_seconds: float | None = None
) -> Float[np.ndarray, "samples"]:
    """Decode an audio file, or the audio track of a video file, to 16 kHz mono in [-1, 1].

    Channels are averaged, then resampled by soxr's high-quality filter, as librosa.load does (quirk S1).
    libsndfile decodes what it knows, FFmpeg the rest, whatever the file's name. Raises OlaError for a file
    that is not audio, is broken, has no samples, or lasts longer than `max_seconds` and the limits allow.
    """
    waveform, form = None, _format(media)
    if form and not (limits.joined_audio and form in JOINED):
        parts = links(media) if limits.joined_audio and form == "OGG" else [media]
        blocks = itertools.chain.from_iterable(map(_sound_file_blocks, parts))
        waveform = _waveform(blocks, media, limits, max_seconds)
    if waveform is None or not len(waveform):  # FFmpeg may find samples where a header claims none
        track = _track(media, limits, max_seconds, is_video=False)
        waveform = waveform if track is None else track
    if waveform is None:
        raise BadMediaError(f"{media.name}: has no sound track; expected a sound file or a video with sound")
    if not len(waveform):
        raise BadMediaError(f"{media.name}: the sound has no samples (zero length)")
    return waveform


def read_sound_track(
    media: Media,
    limits: MediaLimits = LIMITS,
    max_seconds: float | None = None,
) -> Float[np.ndarray, "samples"] | None:
    """The first audio track of a container (mp4, webm, m4a, ...) that can be decoded, at 16 kHz mono.

    None is returned for a video without audio. What follows a change of rate is resampled from its own
    rate. Of a file that is cut short, what is there is kept; a packet that cannot be decoded is an error,
    unless none that can follows. Raises OlaError as `read_audio` does.
    """
    return _track(media, limits, max_seconds, is_video=True)


def _track(
    media: Media, limits: MediaLimits, max_seconds: float | None, is_video: bool
) -> Float[np.ndarray, "samples"] | None:
    try:
        with open_container(media) as container:
            if is_picture(container) and not is_video:  # which may be an animated image
                raise BadMediaError(f"{media.name}: cannot be read as sound (it is an image)")
            tracks = container.streams.audio
            if not tracks:
                return None
            track = next((track for track in tracks if track.codec_context is not None), None)
            if track is None:
                raise BadMediaError(f"{media.name}: its sound is in a format that cannot be decoded")
            limit_threads(track)
            waveform = _waveform(_track_blocks(container, track), media, limits, max_seconds)
            return waveform if len(waveform) else None
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as sound ({reason(error)})") from error


def chunk(waveform: Float[np.ndarray, "samples"], chunk_samples: int) -> Float[np.ndarray, "c T"]:
    """Cut into chunks of `chunk_samples` (at 16 kHz), the last one zero padded; nothing is dropped."""
    count = -(-len(waveform) // chunk_samples)
    padded = np.zeros(count * chunk_samples, np.float32)
    padded[: len(waveform)] = waveform
    return padded.reshape(count, chunk_samples)


def _waveform(
    blocks: Iterable[Block], media: Media, limits: MediaLimits, max_seconds: float | None
) -> Float[np.ndarray, "samples"]:
    """Average, check and resample blocks as they are decoded; decoding ends where the audio is too long."""
    longest = limits.audio_seconds if max_seconds is None else min(limits.audio_seconds, max_seconds)
    low, high = limits.audio_rates
    before, length, rate, parts = 0.0, 0, None, []  # seconds at other rates, samples at this one
    resampler = _Resampler(SAMPLE_RATE)
    for block_rate, samples in blocks:
        if block_rate != rate:
            if not low <= block_rate <= high:
                raise BadMediaError(f"{media.name}: {block_rate} samples a second, expected {low} to {high}")
            parts += resampler.end()
            before += length / rate if rate else 0.0
            length, rate, resampler = 0, block_rate, _Resampler(block_rate)
        length += len(samples)
        if before + length / rate > longest:
            raise BadMediaError(
                f"{media.name}: the sound is longer than {longest:g} seconds, the most there is room for; "
                "shorten it"
            )
        with np.errstate(all="ignore"):
            mono = samples.mean(axis=1)
        _check_finite(mono, media)
        parts += resampler.add(mono)
    parts += resampler.end()
    waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    _check_finite(waveform, media)  # the filter may exceed the range of floats
    return waveform


def _check_finite(samples: np.ndarray, media: Media) -> None:
    if not np.isfinite(samples).all():
        raise BadMediaError(f"{media.name}: the sound has samples that are not finite")


class _Resampler:
    """To 16 kHz, block by block: the very numbers of librosa.resample(res_type="soxr_hq") of the whole."""

    def __init__(self, rate: int):
        self._rate, self._given, self._made = rate, 0, 0
        other = rate != SAMPLE_RATE
        self._soxr = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ") if other else None

    def add(self, mono: np.ndarray) -> list[np.ndarray]:
        self._given += len(mono)
        return [self._made_by(mono)] if self._soxr else [mono]

    def end(self) -> list[np.ndarray]:
        """The rest; librosa rounds the number of samples up, and fills with zeros."""
        if self._soxr is None or not self._given:
            return []
        before, rest = self._made, self._made_by(np.zeros(0, np.float32), last=True)
        length = int(np.ceil(self._given * (SAMPLE_RATE / self._rate))) - before
        return [rest[:length], np.zeros(max(length - len(rest), 0), np.float32)]

    def _made_by(self, mono: np.ndarray, last: bool = False) -> np.ndarray:
        made = self._soxr.resample_chunk(mono, last=last)
        self._made += len(made)
        return made


class _SoundFile(soundfile.SoundFile):
    """Read from front to back: soundfile seeks after each block, which some decoders do not survive."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _sound_file(media: Media) -> Iterator[_SoundFile]:
    """The audio file, by its descriptor: its name does not count (soundfile takes .raw for headerless)."""
    if media.data is not None:
        with _SoundFile(_Bytes(media.data)) as file:
            yield file
    else:
        with open(media.path, "rb") as source, _SoundFile(source.fileno(), closefd=False) as file:
            yield file


class _Bytes(io.BytesIO):
    """Bytes as a file in which a seek to before the start fails silently, as libsndfile expects it."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


def _format(media: Media) -> str | None:
    """The format as libsndfile names it; None for a file that it does not know."""
    try:
        with _sound_file(media) as file:
            return file.format
    except soundfile.SoundFileError:
        return None
    except OSError as error:
        raise BadMediaError(f"{media.name}: cannot be read ({first_line(error)})") from error


def _sound_file_blocks(media: Media) -> Iterator[Block]:
    try:
        with _sound_file(media) as file:
            if soundfile.SoundFile.seekable(file):
                file.seek(0)  # as soundfile.read does: a decoder of MP3 then rounds otherwise in the last bit
            frames = max(BLOCK // file.channels, 1)
            while len(samples := file.read(frames, dtype="float32", always_2d=True)):
                yield file.samplerate, samples
    except soundfile.SoundFileError as error:
        raise BadMediaError(f"{media.name}: cannot be read as sound ({first_line(error)})") from error


def _track_blocks(container: av.container.InputContainer, track: av.AudioStream) -> Iterator[Block]:
    to_float, kind, failed = None, None, None
    for packet in container.demux(track):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            failed = failed or error
            continue
        for frame in frames:
            if failed:  # and it goes on: samples are missing in the middle
                raise failed
            if kind != (found := (frame.sample_rate, frame.format.name, frame.layout.name)):
                # Not planar: PyAV reads beyond the end where there are more than 8 planes.
                kind, to_float = found, av.AudioResampler(format="flt")
            for block in to_float.resample(frame):
                yield frame.sample_rate, block.to_ndarray().reshape(-1, frame.layout.nb_channels)
    if failed and kind is None:
        raise failed
