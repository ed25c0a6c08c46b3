"""Audio: decoding to 16 kHz mono, and splitting into the chunks that the encoders take."""

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
from ola_jax.data.chained_ogg import split_links
from ola_jax.data.containers import describe_failure, is_picture, limit_threads, open_container
from ola_jax.data.media import LIMITS, BadMediaError, Media, MediaBytes
from ola_jax.errors import first_line

Block = tuple[int, np.ndarray]  # sample rate in Hz, samples of all channels [length, channels]

BLOCK = 2**18  # samples that are decoded at a time, of all channels together
# Formats whose headers state the samples that there are, as libsndfile compares them with the file's length.
EXACT_HEADERS = {
    *itertools.product(
        ("WAV", "WAVEX"), ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
    ),
    *itertools.product(("FLAC",), ("PCM_S8", "PCM_16", "PCM_24")),
}
JOINED = ("MP3", "MPEG")  # formats of which libsndfile may read only the first part; FFmpeg reads all


def read_audio(
    media: Media, limits: MediaLimits = LIMITS, max_seconds: float | None = None
) -> Float[np.ndarray, "samples"]:
    """Decodes an audio file, or the sound track of a video file, to 16 kHz mono in [-1, 1].

    Channels are averaged, then resampled by soxr's high-quality filter, as librosa.load does (quirk S1).
    libsndfile decodes what it knows, FFmpeg the rest, whatever the file's name. Raises OlaError for a file
    that is not audio, is broken, has no samples, or is longer than `max_seconds` or the limits allow.
    """
    waveform, file_format = None, _format(media)
    if file_format and not (limits.joined_audio and file_format in JOINED):
        parts = split_links(media) if limits.joined_audio and file_format == "OGG" else [media]
        blocks = itertools.chain.from_iterable(map(_sound_file_blocks, parts))
        waveform = _waveform(blocks, media, limits, max_seconds)
    if waveform is None or not len(waveform):  # FFmpeg may find samples in a file whose header claims none
        track = _track(media, limits, max_seconds, is_video=False)
        waveform = waveform if track is None else track
    if waveform is None:
        raise BadMediaError(
            f"{media.name}: has no audio; expected an audio file or a video with a sound track"
        )
    if not len(waveform):
        raise BadMediaError(f"{media.name}: the audio has no samples; replace or remove it")
    return waveform


def read_sound_track(
    media: Media,
    limits: MediaLimits = LIMITS,
    max_seconds: float | None = None,
) -> Float[np.ndarray, "samples"] | None:
    """The first audio track of a container (mp4, webm, m4a, ...) that can be decoded, at 16 kHz mono.

    Returns None for a video without audio. Where the sample rate changes within the track, each part is
    resampled from its own. A truncated file is read as far as it goes; a packet that cannot be decoded is an
    error only if one that can follows. Raises OlaError as `read_audio` does.
    """
    return _track(media, limits, max_seconds, is_video=True)


def _track(
    media: Media, limits: MediaLimits, max_seconds: float | None, is_video: bool
) -> Float[np.ndarray, "samples"] | None:
    try:
        with open_container(media) as container:
            if is_picture(container) and not is_video:  # which may be an animated image
                raise BadMediaError(
                    f"{media.name}: cannot be read as audio (it is an image); expected an audio file"
                )
            tracks = container.streams.audio
            if not tracks:
                return None
            track = next((track for track in tracks if track.codec_context is not None), None)
            if track is None:
                raise BadMediaError(
                    f"{media.name}: its audio is in a format that cannot be decoded; convert it"
                )
            limit_threads(track)
            waveform = _waveform(_join(_track_blocks(container, track)), media, limits, max_seconds)
            return waveform if len(waveform) else None
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BadMediaError(f"{media.name}: cannot be read as audio ({describe_failure(error)})") from error


def header_length(media: Media, limits: MediaLimits = LIMITS, max_seconds: float | None = None) -> int | None:
    """The number of samples that `read_audio` returns, by the header; None if it takes decoding to tell.

    Raises OlaError or SoundFileError for a file that is damaged.
    """
    with _sound_file(media) as file:
        rate, count = file.samplerate, file.frames
        if (file.format, file.subtype) not in EXACT_HEADERS or not limits.audio_rates[0] <= rate:
            return None
    longest = limits.audio_seconds if max_seconds is None else min(limits.audio_seconds, max_seconds)
    if not 0 < count <= longest * rate or rate > limits.audio_rates[1]:
        return None
    return count if rate == SAMPLE_RATE else resampled_length(count, SAMPLE_RATE / rate)


def resampled_length(count: int, ratio: float) -> int:
    """The samples that librosa.resample makes of so many, for a rate that changes by this ratio."""
    return int(np.ceil(count * ratio))


def split_into_chunks(waveform: Float[np.ndarray, "samples"], chunk_samples: int) -> Float[np.ndarray, "c T"]:
    """Splits audio at 16 kHz into chunks of `chunk_samples`, the last one zero padded; drops nothing."""
    count = -(-len(waveform) // chunk_samples)
    padded = np.zeros(count * chunk_samples, np.float32)
    padded[: len(waveform)] = waveform
    return padded.reshape(count, chunk_samples)


def _waveform(
    blocks: Iterable[Block], media: Media, limits: MediaLimits, max_seconds: float | None
) -> Float[np.ndarray, "samples"]:
    """Averages, checks and resamples blocks as they are decoded; stops when the audio is too long."""
    longest = limits.audio_seconds if max_seconds is None else min(limits.audio_seconds, max_seconds)
    low, high = limits.audio_rates
    before, length, rate = 0.0, 0, 0  # seconds at earlier rates, samples at the current one, in Hz
    parts: list[np.ndarray] = []
    resampler: _Unchanged | _Soxr = _Unchanged()
    for block_rate, samples in blocks:
        if block_rate != rate:
            if not low <= block_rate <= high:
                raise BadMediaError(
                    f"{media.name}: {block_rate} samples per second; expected {low} to {high}"
                )
            parts += resampler.end()
            before += length / rate if rate else 0.0
            length, rate, resampler = 0, block_rate, _resampler(block_rate)
        length += len(samples)
        if before + length / rate > longest:
            raise BadMediaError(
                f"{media.name}: the audio is longer than {longest:g} seconds, the longest that is accepted; "
                "shorten it"
            )
        with np.errstate(all="ignore"):
            mono = _average(samples)
        _check_finite(mono, media)
        parts += resampler.add(mono)
    parts += resampler.end()
    waveform = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    _check_finite(waveform, media)  # the filter may overflow
    return waveform


def _average(samples: Float[np.ndarray, "length channels"]) -> Float[np.ndarray, "length"]:
    """`samples.mean(axis=1)`, which is slow along an axis of one or two."""
    if samples.shape[1] > 2:
        return samples.mean(axis=1)
    return (samples[:, 0] + samples[:, 1]) / 2 if samples.shape[1] == 2 else samples[:, 0]


def _join(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same samples in fewer blocks, of about BLOCK samples."""
    parts: list[np.ndarray] = []
    size = rate = 0
    for block_rate, samples in blocks:
        if parts and (block_rate != rate or samples.shape[1] != parts[0].shape[1] or size >= BLOCK):
            yield rate, np.concatenate(parts)
            parts, size = [], 0
        parts.append(samples)
        rate, size = block_rate, size + samples.size
    if parts:
        yield rate, np.concatenate(parts)


def _check_finite(samples: np.ndarray, media: Media) -> None:
    if not np.isfinite(samples).all():
        raise BadMediaError(f"{media.name}: the audio has samples that are not finite; write it again")


class _Unchanged:
    """Stands in for `_Soxr` where the audio is at 16 kHz already."""

    def add(self, mono: np.ndarray) -> list[np.ndarray]:
        return [mono]

    def end(self) -> list[np.ndarray]:
        return []


class _Soxr:
    """Resamples mono audio to 16 kHz block by block, as librosa.resample(res_type="soxr_hq") does at once.

    Both methods return the samples that are ready.
    """

    def __init__(self, rate: int) -> None:
        self._ratio, self._given, self._returned = SAMPLE_RATE / rate, 0, 0
        self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")

    def add(self, mono: np.ndarray) -> list[np.ndarray]:
        self._given += len(mono)
        samples = self._stream.resample_chunk(mono)
        self._returned += len(samples)
        return [samples]

    def end(self) -> list[np.ndarray]:
        """Returns the rest; librosa rounds the number of samples up, and pads with zeros."""
        if not self._given:
            return []
        length = resampled_length(self._given, self._ratio) - self._returned
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return [rest[:length], np.zeros(max(length - len(rest), 0), np.float32)]


def _resampler(rate: int) -> _Unchanged | _Soxr:
    return _Unchanged() if rate == SAMPLE_RATE else _Soxr(rate)


class _SoundFile(soundfile.SoundFile):
    """Reads from front to back: soundfile seeks after each block, which crashes some decoders."""

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _sound_file(media: Media) -> Iterator[_SoundFile]:
    """Opens the audio file by its descriptor, without its name: soundfile takes .raw for headerless audio."""
    if isinstance(media, MediaBytes):
        with _SoundFile(_Bytes(media.data)) as file:
            yield file
    else:
        with open(media.path, "rb") as source, _SoundFile(source.fileno(), closefd=False) as file:
            yield file


class _Bytes(io.BytesIO):
    """Bytes as a file in which a seek to before the start returns -1, as libsndfile expects."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


def _format(media: Media) -> str | None:
    """The name that libsndfile has for the format; None for a format that it does not know."""
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
                file.seek(0)  # as soundfile.read does: without it, the MP3 decoder differs in the last bit
            frames = max(BLOCK // file.channels, 1)
            # Whole numbers become the same floats here, faster than in libsndfile.
            is_whole = file.subtype == "PCM_16" and (file.format, file.subtype) in EXACT_HEADERS
            kind = "int16" if is_whole else "float32"
            while len(samples := file.read(frames, dtype=kind, always_2d=True)):
                yield file.samplerate, samples * np.float32(1 / 2**15) if is_whole else samples
    except soundfile.SoundFileError as error:
        raise BadMediaError(f"{media.name}: cannot be read as audio ({first_line(error)})") from error


def _track_blocks(container: av.container.InputContainer, track: av.AudioStream) -> Iterator[Block]:
    decoded_format, failed = None, None
    to_float = av.AudioResampler(format="flt")
    for packet in container.demux(track):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            failed = failed or error
            continue
        for frame in frames:
            if failed:  # samples are missing in the middle
                raise failed
            if decoded_format != (found := (frame.sample_rate, frame.format.name, frame.layout.name)):
                # Not planar: PyAV reads beyond the end if there are more than 8 planes.
                decoded_format, to_float = found, av.AudioResampler(format="flt")
            for block in to_float.resample(frame):
                yield frame.sample_rate, block.to_ndarray().reshape(-1, frame.layout.nb_channels)
    if failed and decoded_format is None:
        raise failed
