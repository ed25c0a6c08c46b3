"""From a chat request to the sample that the engine answers: media within limits, decoded elsewhere."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import numpy as np

from ola_jax.config import SAMPLE_RATE, MediaLimits
from ola_jax.data.decoding import Decode, decode_audio, decode_sound_track, decode_video
from ola_jax.data.media import BadMediaError, CrashedError, TimedOutError
from ola_jax.data.processor import Processor
from ola_jax.data.room import image_tokens
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError
from ola_jax.generate.conversation import Question, conversation_record
from ola_jax.serve.api_error import internal, invalid
from ola_jax.serve.chat_request import ChatRequest
from ola_jax.serve.limits import Limits
from ola_jax.serve.media_files import StoredMedia, private_folder, write_media
from ola_jax.serve.messages import MediaPart
from ola_jax.serve.network import Fetcher
from ola_jax.serve.probing import Size, audio_size, image_size, video_size
from ola_jax.serve.prompt import Prompt, Turn, read_prompt

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SIZES: dict[str, Callable[[str], Size]] = {"image": image_size, "audio": audio_size, "video": video_size}


class RefusedMediaError(BadMediaError):
    """Media that cannot be decoded, in words for the client."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request whose media are decoded."""

    sample: Sample
    media_seconds: dict[str, float]  # of audio as decoded, of video by its header
    decode_seconds: float  # that it took to get and decode the media


@dataclasses.dataclass(frozen=True)
class Preparer:
    """Makes samples of requests; may be called from several threads."""

    processor: Processor
    limits: Limits
    fetcher: Fetcher
    local: pathlib.Path | None
    length: int  # tokens that a prompt and its answer have room for

    @classmethod
    def of(
        cls,
        processor: Processor,
        decode: Decode,
        *,
        limits: Limits,
        fetcher: Fetcher,
        local: pathlib.Path | None,
        length: int,
    ) -> "Preparer":
        """A preparer that calls `decode` for media, with the server's limits where they are lower."""
        settings = dataclasses.replace(
            processor.processor_config, media=media_limits(processor.processor_config.media, limits)
        )
        processor = dataclasses.replace(processor, processor_config=settings, decode=decode)
        return cls(processor, limits, fetcher, local, length)

    def prepare(self, request: ChatRequest, hold: Callable[[int], None]) -> Prepared:
        """The sample of a request. Raises ApiError for one that cannot be answered."""
        begin = time.perf_counter()
        prompt = read_prompt(request.messages, self.processor.tokenizer)
        self._check_parts(prompt)
        try:
            with private_folder() as folder:
                files = write_media(
                    prompt.media,
                    folder,
                    limits=self.limits,
                    fetcher=self.fetcher,
                    local=self.local,
                    hold=hold,
                )
                sizes = [self._size(file) for file in files]
                self._check_sizes(prompt, files, sizes)
                sample, audio_seconds = self._sample(prompt, files, folder)
        except RefusedMediaError as error:
            raise invalid(str(error), "messages") from error
        except OlaError as error:
            raise (invalid(str(error), "messages") if _is_ours(error) else internal()) from error
        shown = zip(files, sizes, strict=True)
        video_seconds = sum(size.seconds for file, size in shown if file.part.kind == "video")
        seconds = {"audio": audio_seconds, "video": video_seconds}
        return Prepared(sample, seconds, time.perf_counter() - begin)

    def _check_parts(self, prompt: Prompt) -> None:
        config = self.processor.config
        for part in prompt.media:
            if not (config.has_audio if part.kind == "audio" else config.vision):
                raise invalid(f"this model takes no {part.kind}", part.where)

    def _size(self, file: StoredMedia) -> Size:
        """The size by the header, within the limits of one of the media."""
        limits, where, kind = self.limits, file.part.where, file.part.kind
        try:
            size: Size = self.processor.decode(SIZES[kind], str(file.path))
        except BadMediaError as error:
            raise invalid(_reason(error, kind), where) from error
        except OlaError as error:
            raise internal() from error
        pixels, most = (
            size.width * size.height,
            limits.image_pixels if kind == "image" else limits.frame_pixels,
        )
        if pixels > most:
            raise invalid(f"{size.width}x{size.height} pixels, at most {most} are decoded", where)
        if size.frames > limits.video_frames:
            raise invalid(f"{size.frames} frames, at most {limits.video_frames} are decoded", where)
        if size.seconds > limits.media_seconds:
            raise invalid(f"{size.seconds:.0f} seconds, at most {limits.media_seconds:g} are decoded", where)
        return size

    def _check_sizes(self, prompt: Prompt, files: Sequence[StoredMedia], sizes: Sequence[Size]) -> None:
        """Checks the limits of a request as a whole: bytes when decoded, and the least number of tokens."""
        config, pixels = self.processor.config, self.processor.limits
        total, tokens = 0.0, 0
        for file, size in zip(files, sizes, strict=True):
            total += 4 * size.width * size.height + 4 * SAMPLE_RATE * size.seconds
            if file.part.kind == "video":
                total += 3 * pixels.max_frames * pixels.video_max_side**2
            if file.part.kind == "image" and config.vision:
                total += 3 * pixels.high_res_max_side**2
                shape = (size.width, size.height)
                tokens += sum(image_tokens([shape], pixels, config.vision.patch_size, config.token_side))
            if file.part.kind == "audio":
                seconds = config.chunk_samples / SAMPLE_RATE
                tokens += math.floor(size.seconds / seconds) * (config.chunk_tokens + 1)
        if total > self.limits.decoded_bytes:
            reason = f"the media have {total / 2**20:.0f} MiB when decoded"
            raise invalid(f"{reason}, at most {self.limits.decoded_bytes / 2**20:.0f} are taken", "messages")
        encode = self.processor.tokenizer.encode
        texts = [text for turn in prompt.turns for text in (turn.text, turn.answer)]
        for text in (prompt.system, *texts):
            tokens += len(encode(text, add_special_tokens=False).ids) if text else 0
            if tokens >= self.length:
                raise invalid(
                    f"at least {tokens} tokens, prompt and answer have room for {self.length}; shorten the "
                    "text or its media",
                    "messages",
                    "context_length_exceeded",
                )

    def _sample(
        self, prompt: Prompt, files: Sequence[StoredMedia], folder: pathlib.Path
    ) -> tuple[Sample, float]:
        """The sample, and the seconds of audio that were decoded for it."""
        names = {file.part: file.path.name for file in files}
        questions = [_question(turn, names, prompt.has_audio) for turn in prompt.turns]
        answers = [turn.answer for turn in prompt.turns if turn.answer is not None]
        processor, settings = self.processor, self.processor.processor_config
        if prompt.system is not None:
            settings = dataclasses.replace(settings, system_prompt=prompt.system)
        decode = _Guarded(processor.decode, prompt.media)
        processor = dataclasses.replace(processor, processor_config=settings, decode=decode)
        record = conversation_record(questions, answers)
        sample = processor.sample(record, str(folder), marks_are_text=not files)
        return sample, decode.audio_samples / SAMPLE_RATE


@dataclasses.dataclass
class _Guarded:
    """Decodes, with errors in words for the client: a decoder's own name paths and say what libraries say."""

    decode: Decode
    parts: tuple[MediaPart, ...]
    audio_samples: int = 0  # decoded so far, of files of audio; recordings have no length in their header

    def __call__(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        try:
            decoded = self.decode(function, *arguments)
            if function is decode_audio and isinstance(decoded, np.ndarray):
                self.audio_samples += len(decoded)
            return decoded
        except BadMediaError as error:
            sound = function in (decode_audio, decode_sound_track)
            kind = "video" if function is decode_video else "audio" if sound else "image"
            found = [part for part in self.parts if part.kind == kind]
            where = found[0].where if len(found) == 1 else "messages"
            raise RefusedMediaError(f"{where}: {_reason(error, kind)}") from error
        except OlaError as error:  # no process could be started, or the server closes
            raise internal() from error


def media_limits(media: MediaLimits, limits: Limits) -> MediaLimits:
    """The lower of the checkpoint's limits and the server's."""
    return dataclasses.replace(
        media,
        image_pixels=min(media.image_pixels, limits.image_pixels),
        frame_pixels=min(media.frame_pixels, limits.frame_pixels),
        video_frames=min(media.video_frames, limits.video_frames),
        audio_seconds=min(media.audio_seconds, limits.media_seconds),
        decode_seconds=limits.decode_seconds,
    )


def _question(turn: Turn, names: dict[MediaPart, str], has_audio: bool) -> Question:
    name = lambda part: None if part is None else names[part]
    sound = turn.audio is not None or not has_audio  # one sound in a conversation: what the user sent
    return Question(
        turn.text, tuple(names[part] for part in turn.images), name(turn.video), name(turn.audio), sound
    )


def _reason(error: OlaError, kind: str) -> str:
    if isinstance(error, TimedOutError):
        return f"decoding the {kind} took too long and was ended"
    if isinstance(error, CrashedError):
        return f"the {kind} made its decoder fail; convert it, or leave it out"
    return f"the {kind} cannot be decoded, or is larger than what is decoded here"


def _is_ours(error: BaseException) -> bool:
    """True if no exception of a library or the system stands behind the error."""
    while error.__cause__ is not None:
        error = error.__cause__
        if not isinstance(error, OlaError):
            return False
    return True
