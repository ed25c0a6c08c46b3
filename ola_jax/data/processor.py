"""From Ola's JSON records to samples and batches, on the host."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from tokenizers import Tokenizer

from ola_jax.config import SAMPLE_RATE, OlaConfig, PixelLimits, ProcessorConfig
from ola_jax.data.audio import split_into_chunks
from ola_jax.data.chat import Conversation, encode_prompt, encode_training
from ola_jax.data.decoding import (
    Decode,
    DecodeSettings,
    decode_audio,
    decode_images,
    decode_sound_track,
    decode_video,
    image_sizes,
    in_process,
)
from ola_jax.data.failures import errors_naming_media
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.layout import audio_rows, image_rows, pooled_size, video_rows
from ola_jax.data.media import is_media_file
from ola_jax.data.merging import merge
from ola_jax.data.record_files import JsonRecord
from ola_jax.data.records import ParsedRecord, message_prefix, parse_record
from ola_jax.data.room import check_room, image_tokens, may_exceed
from ola_jax.data.rows import misfit, needs
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.data.tokenizer import check_chat_tokens, load_tokenizer
from ola_jax.data.windows import choose_windows
from ola_jax.errors import OlaError, describe
from ola_jax.row import IGNORE, MODALITIES, Budget, FeatureTable
from ola_jax.typing import Float, HostArray, Int

if TYPE_CHECKING:
    import ola_jax.batch

Preset = Literal["train", "infer"]

TOKEN_MULTIPLE = 64  # batch lengths are rounded up to it, so that fewer shapes are compiled


@dataclasses.dataclass(frozen=True)
class Processor:
    """Turns records into samples, or into a batch with one row for each.

    `preset` selects the pixel limits: those of the original's training or of its inference script. `decode`
    calls the functions that decode media; an `IsolatedDecoder` calls them in a process that can be ended.
    """

    config: OlaConfig
    processor_config: ProcessorConfig
    tokenizer: Tokenizer
    preset: Preset = "train"
    decode: Decode = in_process

    def __post_init__(self) -> None:
        if self.preset not in ("train", "infer"):
            raise OlaError(f"preset is {self.preset!r}; expected 'train' or 'infer'")
        check_chat_tokens(self.tokenizer, "tokenizer")
        size, vocab_size = self.tokenizer.get_vocab_size(), self.config.llm.vocab_size
        if size > vocab_size:
            raise OlaError(
                f"the tokenizer has {size} tokens and the model's vocab_size is {vocab_size}; use the "
                "tokenizer of the model"
            )
        if self.config.vision:
            _check_limits(self.limits, 2 * self.config.vision.patch_size)

    @classmethod
    def from_pretrained(cls, directory: str | pathlib.Path, preset: Preset = "train") -> "Processor":
        """Loads the processor of an ola_jax checkpoint from its `config.json` and `tokenizer/`."""
        from ola_jax.checkpoint import load_configs  # it imports Orbax and JAX

        config, processor_config, _ = load_configs(directory)
        return cls(config, processor_config, load_tokenizer(pathlib.Path(directory) / "tokenizer"), preset)

    @property
    def limits(self) -> PixelLimits:
        """The pixel limits of the preset."""
        return self.processor_config.train if self.preset == "train" else self.processor_config.infer

    @property
    def settings(self) -> DecodeSettings:
        """The settings for decoding media; audio may have one chunk, or as many as fit into a sample."""
        chunks = max(self.processor_config.max_length // (self.config.chunk_tokens + 1), 1)
        return DecodeSettings(
            self.limits,
            self.processor_config.media,
            self.config.vision.patch_size if self.config.vision else 0,
            self.preset == "train",
            chunks * self.config.chunk_samples / SAMPLE_RATE,
        )

    @contextlib.contextmanager
    def isolated(self) -> Iterator["Processor"]:
        """The same processor, decoding in processes that end with the context, or after `decode_seconds`."""
        with IsolatedDecoder(self.processor_config.media.decode_seconds) as decode:
            yield dataclasses.replace(self, decode=decode)

    def sample(
        self,
        record: object,
        root: str | None = None,
        *,
        training: bool = False,
        marks_are_text: bool = False,
    ) -> Sample:
        """Decodes, tokenizes and merges one record (a JSON object); relative media paths are below `root`.

        A record whose last message is the human's becomes a prompt: it ends with the beginning of the
        assistant's turn and has no targets. With `training` no record is a prompt: such a message is kept,
        and a record without an answer token among its first `max_length` tokens is refused. With
        `marks_are_text`, "<image>" and "<speech>" are text if the record has no such media.

        Raises OlaError naming the record and the file, for any failure.
        """
        try:
            parsed = parse_record(record, training=training, marks_are_text=marks_are_text)
            return self._sample(parsed, root, training)
        except OlaError as error:
            raise type(error)(f"{message_prefix(record)}{error}") from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # one bad record must not end a run; Rust's panics are not Exceptions
            prefix = message_prefix(record)
            raise OlaError(f"{prefix}cannot be turned into a sample ({describe(error)})") from error

    def __call__(
        self, records: Sequence[JsonRecord], root: str | None = None, budget: Budget | None = None
    ) -> "ola_jax.batch.OlaBatch":
        """Makes a batch (numpy leaves) with one row for each record, in order.

        Its sizes are those of `budget`, or the smallest that hold the records.
        """
        return self.batch([self.sample(record, root) for record in records], budget)

    def batch(self, samples: Sequence[Sample], budget: Budget | None = None) -> "ola_jax.batch.OlaBatch":
        """Makes a batch of samples, as `__call__` does of records."""
        from ola_jax.data.assembly import assemble  # it imports JAX

        if not samples:
            raise OlaError("there are no records; expected at least one")
        budget = budget or self.smallest_budget(samples)
        for number, sample in enumerate(samples):
            if reason := misfit([needs(sample)], budget):
                raise OlaError(
                    f"record {sample.id or number!r}: {reason}; raise the budget or shorten the record"
                )
        return assemble([[sample] for sample in samples], budget, self.config)

    def smallest_budget(self, samples: Sequence[Sample]) -> Budget:
        """The smallest row that holds any one of these samples."""
        longest = max(len(sample.tokens) for sample in samples)
        # The linear layers of a patch cost about as much as attention over 6 times its width.
        linear = 6 * self.config.vision.hidden_size if self.config.vision else 0
        windows, patches = choose_windows([[len(i.patches) for i in s.images] for s in samples], linear)
        chunks = max(len(sample.audio) for sample in samples)
        return Budget(-(-longest // TOKEN_MULTIPLE) * TOKEN_MULTIPLE, windows, patches, chunks)

    def _sample(self, record: ParsedRecord, root: str | None, training: bool) -> Sample:
        limit, text = self.processor_config.max_length, self._encode(record)
        # A video may have no sound track, and the placeholder of its audio is then removed.
        own_track = record.has_audio and record.audio is None
        shortest = self._encode(record.without_audio()) if own_track and training else text
        if training:  # before media are decoded needlessly
            check_room(shortest, [], limit)
            side, count = self.config.token_side, len(record.images)
            if count and self.config.vision and may_exceed(count, self.limits, limit, side):
                with errors_naming_media("image", record.images):
                    sizes = self.decode(image_sizes, record.images, root, self.settings)
                least = image_tokens(sizes, self.limits, self.config.vision.patch_size, side)
                check_room(shortest, least, limit)
        with errors_naming_media("image" if record.images else "video", record.images or record.video):
            images, shown = self._images(record, root)
        features = [pooled_size(image.grid, self.config.token_side) for image in images]
        starts = np.cumsum([0, *features]).tolist()
        visuals = self._visuals(record, images, shown, starts, marks=0)
        if training:
            check_room(shortest, [len(rows) for rows in visuals], limit)
        record, chunks = self._audio(record, root)
        if own_track and not record.has_audio:
            text = self._encode(record)
        table = FeatureTable(patches=starts[-1], audio=len(chunks) * self.config.chunk_tokens)
        marks, first = table.start("marks"), table.start("audio")
        visuals = self._visuals(record, images, shown, starts, marks)
        audio = []
        if len(chunks):
            audio = [audio_rows(first, len(chunks), chunk_tokens=self.config.chunk_tokens, marks=marks)]
        if training:
            check_room(text, [len(rows) for rows in (*visuals, *audio)], limit)

        tokens, labels, source, modality = merge(
            text.ids,
            text.labels,
            visuals=visuals,
            audio=audio,
            visual_modality="image" if record.video is None else "video",
        )
        if record.is_prompt and len(tokens) > limit:
            raise OlaError(
                f"the prompt has {len(tokens)} tokens, at most {limit} are allowed (max_length); shorten its "
                "text or its media"
            )
        tokens, labels, source, modality = (x[:limit] for x in (tokens, labels, source, modality))
        targets = np.append(labels[1:], IGNORE).astype(np.int32)
        totals = np.bincount(modality, minlength=len(MODALITIES))
        counts = dict(zip(MODALITIES, totals.tolist(), strict=True))
        return Sample(record.id, tokens, targets, source, tuple(images), chunks, text.ids, counts)

    def _encode(self, record: ParsedRecord) -> Conversation:
        text = record.turns, self.tokenizer, self.processor_config.system_prompt
        has_image = bool(record.images) or record.video is not None
        if not record.is_prompt:
            return encode_training(*text, has_image=has_image, has_audio=record.has_audio)
        ids = encode_prompt(*text, has_image=has_image, has_audio=record.has_audio)
        return Conversation(ids, np.full(len(ids), IGNORE, np.int32), np.zeros(len(ids), bool))

    def _visuals(
        self,
        record: ParsedRecord,
        images: list[ImagePatches],
        shown: list[int],
        starts: list[int],
        marks: int,
    ) -> list[Int[HostArray, "_"]]:
        """The table rows of all frames of the video (quirks I1 and I2), or of each image.

        `shown` and `images` are those of `_images`, `starts` the first row of each image, `marks` the row of
        the first mark.
        """
        side = self.config.token_side
        if record.video is not None:
            return [video_rows([starts[i] for i in shown], images[0].grid, marks, side)]
        views = 1 if self.limits.high_view_only else 2
        return [
            image_rows(starts[i : i + views], [image.grid for image in images[i : i + views]], marks, side)
            for i in range(0, len(images), views)
        ]

    def _audio(self, record: ParsedRecord, root: str | None) -> tuple[ParsedRecord, Float[HostArray, "c T"]]:
        """The chunks of the record's audio, and the record: without audio if the video has no sound track."""
        no_chunks = np.zeros((0, self.config.chunk_samples), np.float32)
        if not record.has_audio:
            return record, no_chunks
        with errors_naming_media("audio", record.audio or record.video):
            waveform = self._waveform(record, root)
        if waveform is None:
            return record.without_audio(), no_chunks
        return record, split_into_chunks(waveform, self.config.chunk_samples)

    def _waveform(self, record: ParsedRecord, root: str | None) -> Float[HostArray, "samples"] | None:
        if record.audio is not None:
            self._require("audio", "audio")
            return self.decode(decode_audio, record.audio, root, self.settings)
        if is_media_file(record.video) and self.config.has_audio:
            return self.decode(decode_sound_track, record.video, root, self.settings)
        return None

    def _images(self, record: ParsedRecord, root: str | None) -> tuple[list[ImagePatches], list[int]]:
        """The views of the images, two each; or the distinct frames of the video, and which are shown."""
        if record.video is not None:
            self._require("vision", "video")
            return self.decode(decode_video, record.video, root, self.settings)
        if not record.images:
            return [], []
        self._require("vision", "image")
        return self.decode(decode_images, record.images, root, self.settings), []

    def _require(self, encoder: Literal["vision", "audio"], key: str) -> None:
        if not (self.config.vision if encoder == "vision" else self.config.has_audio):
            raise OlaError(
                f"{key!r}: this model has no {encoder} encoder; remove the {key} or use a model that has one"
            )


def _check_limits(limits: PixelLimits, block: int) -> None:
    for name in ("image_multiple", "video_multiple"):
        if (multiple := getattr(limits, name)) % block or multiple <= 0:
            raise OlaError(f"{name} is {multiple} pixels; expected a multiple of {block} (two patches)")
    if limits.max_frames < 1:
        raise OlaError(f"max_frames is {limits.max_frames}; expected at least 1")
