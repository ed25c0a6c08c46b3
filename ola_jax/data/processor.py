"""From Ola's JSON records to samples and batches, on the host."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from ola_jax.batch import IGNORE, MODALITIES, Budget, FeatureTable, OlaBatch
from ola_jax.checkpoint import load_configs
from ola_jax.config import SAMPLE_RATE, OlaConfig, PixelLimits, ProcessorConfig
from ola_jax.data.assembly import assemble, misfit
from ola_jax.data.audio import chunk
from ola_jax.data.chat import AUDIO, Conversation, encode_prompt, encode_training
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
from ola_jax.data.failures import reading
from ola_jax.data.isolation import IsolatedDecoder
from ola_jax.data.layout import audio_rows, image_rows, pooled_size, video_rows
from ola_jax.data.merging import merge
from ola_jax.data.records import Record, label, parse_record
from ola_jax.data.room import check_room, image_tokens, may_fill
from ola_jax.data.sample import ImagePatches, Sample
from ola_jax.data.tokenizer import check_chat_tokens, load_tokenizer
from ola_jax.data.windows import choose_windows
from ola_jax.errors import OlaError, describe
from ola_jax.typing import Array, Float, Int

TOKEN_MULTIPLE = 64  # batch lengths are rounded up to it, so that fewer shapes are compiled


@dataclasses.dataclass(frozen=True)
class Processor:
    """Turns records into samples, or into a batch of one row each.

    `preset` chooses the pixel limits: those of the original's training or of its inference script.
    `decode` calls the functions that decode media; an `IsolatedDecoder` does so in a process that can be
    ended.
    """

    config: OlaConfig
    processor_config: ProcessorConfig
    tokenizer: Tokenizer
    preset: Literal["train", "infer"] = "train"
    decode: Decode = in_process

    def __post_init__(self):
        if self.preset not in ("train", "infer"):
            raise OlaError(f"preset {self.preset!r}: expected 'train' or 'infer'")
        check_chat_tokens(self.tokenizer, "tokenizer")
        size, rows = self.tokenizer.get_vocab_size(), self.config.llm.vocab_size
        if size > rows:
            raise OlaError(f"tokenizer: {size} tokens, the model's vocab_size is {rows}; they do not match")
        if self.config.vision:
            _check_limits(self.limits, 2 * self.config.vision.patch_size)

    @classmethod
    def from_pretrained(
        cls, directory: str | pathlib.Path, preset: Literal["train", "infer"] = "train"
    ) -> "Processor":
        """The processor of an ola_jax checkpoint: its `config.json` and `tokenizer/`."""
        config, processor_config, _ = load_configs(directory)
        return cls(config, processor_config, load_tokenizer(pathlib.Path(directory) / "tokenizer"), preset)

    @property
    def limits(self) -> PixelLimits:
        """The pixel limits of the preset."""
        return self.processor_config.train if self.preset == "train" else self.processor_config.infer

    @property
    def settings(self) -> DecodeSettings:
        """How media are decoded; audio to one chunk, or as many as fit into a sample without text."""
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
        """The same, with media decoded in processes that end with the block, or after `decode_seconds`."""
        with IsolatedDecoder(self.processor_config.media.decode_seconds) as decode:
            yield dataclasses.replace(self, decode=decode)

    def sample(
        self,
        record: Any,
        root: str | None = None,
        *,
        training: bool = False,
        marks_are_text: bool = False,
    ) -> Sample:
        """Decode, tokenise and merge one record (a JSON object); relative media paths are below `root`.

        A record whose last message is the human's becomes a prompt, ending with the opened turn of
        the assistant and without targets. With `training` no record is a prompt: such a message stays,
        and a record without a token of an answer among its first `max_length` tokens is refused. With
        `marks_are_text`, "<image>" and "<speech>" are text where the record has no such media.

        Raises OlaError naming the record and the file, whatever goes wrong.
        """
        try:
            parsed = parse_record(record, training=training, marks_are_text=marks_are_text)
            return self._sample(parsed, root, training)
        except OlaError as error:
            raise type(error)(f"{label(record)}{error}") from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # one bad record must not end a run; Rust's panics are no Exception
            raise OlaError(f"{label(record)}cannot be made a sample ({describe(error)})") from error

    def __call__(
        self, records: Sequence[dict[str, Any]], root: str | None = None, budget: Budget | None = None
    ) -> OlaBatch:
        """A batch (numpy leaves) of one row for each record, in order.

        Its sizes are those of `budget`, or else as small as the records need.
        """
        return self.batch([self.sample(record, root) for record in records], budget)

    def batch(self, samples: Sequence[Sample], budget: Budget | None = None) -> OlaBatch:
        """As `__call__`, of samples that are made already."""
        if not samples:
            raise OlaError("no records: expected at least one")
        budget = budget or self.smallest_budget(samples)
        for number, sample in enumerate(samples):
            if reason := misfit([sample], budget):
                raise OlaError(
                    f"record {sample.id or number!r}: {reason}; raise the budget or shorten the record"
                )
        return assemble([[sample] for sample in samples], budget, self.config)

    def smallest_budget(self, samples: Sequence[Sample]) -> Budget:
        """Sizes of a row that just hold each of these samples alone."""
        longest = max(len(sample.tokens) for sample in samples)
        # A patch's linear layers do about as much work as attention over 6 times its width.
        linear = 6 * self.config.vision.hidden_size if self.config.vision else 0
        windows, patches = choose_windows([[len(i.patches) for i in s.images] for s in samples], linear)
        chunks = max(len(sample.audio) for sample in samples)
        return Budget(-(-longest // TOKEN_MULTIPLE) * TOKEN_MULTIPLE, windows, patches, chunks)

    def _sample(self, record: Record, root: str | None, training: bool) -> Sample:
        limit, has_image = self.processor_config.max_length, bool(record.images) or record.video is not None
        text = self._encode(record, has_image)
        if training:  # before media are decoded in vain
            # A video's own sound track may turn out to be silent, and its placeholder to be dropped.
            own_track = record.hears and record.audio is None
            least = self._encode(record.without_audio(), has_image) if own_track else text
            check_room(least, [], limit)
            if record.images and self.config.vision and may_fill(len(record.images), self.limits, limit):
                with reading("image", record.images):
                    sizes = self.decode(image_sizes, record.images, root, self.settings)
                check_room(least, image_tokens(sizes, self.limits, self.config.vision.patch_size), limit)
        with reading("image" if record.images else "video", record.images or record.video):
            images, shown = self._images(record, root)
        starts = np.cumsum([0, *(pooled_size(image.grid) for image in images)]).tolist()
        visuals = self._visuals(record, images, shown, starts, marks=0)
        if training:
            check_room(least, [len(rows) for rows in visuals], limit)
        heard, audio = record, np.zeros((0, self.config.chunk_samples), np.float32)
        if record.hears:
            with reading("audio", record.audio or record.video):
                heard, audio = self._audio(record, root)
        if heard.turns != record.turns:  # a silent video
            text = self._encode(heard, has_image)
        table = FeatureTable(patches=starts[-1], audio=len(audio) * self.config.chunk_tokens)
        marks, first = table.start("marks"), table.start("audio")
        visuals = self._visuals(record, images, shown, starts, marks)
        sounds = [audio_rows(first, len(audio), self.config.chunk_tokens, marks)] if len(audio) else []
        if training:
            check_room(text, [len(rows) for rows in (*visuals, *sounds)], limit)

        kind = "image" if record.video is None else "video"
        tokens, labels, source, modality = merge(text.ids, text.labels, visuals, sounds, kind)
        if record.is_prompt and len(tokens) > limit:
            raise OlaError(
                f"the prompt has {len(tokens)} tokens, at most {limit} are allowed; shorten its media"
            )
        tokens, labels, source, modality = (x[:limit] for x in (tokens, labels, source, modality))
        targets = np.append(labels[1:], IGNORE).astype(np.int32)
        totals = np.bincount(modality, minlength=len(MODALITIES))
        counts = dict(zip(MODALITIES, totals.tolist(), strict=True))
        return Sample(record.id, tokens, targets, source, tuple(images), audio, text.ids, counts)

    def _encode(self, record: Record, has_image: bool) -> Conversation:
        text = record.turns, self.tokenizer, self.processor_config.system_prompt
        if not record.is_prompt:
            return encode_training(*text, has_image, record.hears)
        ids = encode_prompt(*text, has_image, record.hears)
        return Conversation(ids, np.full(len(ids), IGNORE, np.int32), np.zeros(len(ids), bool))

    def _visuals(
        self, record: Record, images: list[ImagePatches], shown: list[int], starts: list[int], marks: int
    ) -> list[Int[Array, "_"]]:
        """The rows of all frames of the video (quirks I1 and I2), or of each image.

        `marks` is the table row of the first mark.
        """
        grids = [image.grid for image in images]
        if record.video is not None:
            return [video_rows([starts[i] for i in shown], grids[0], marks)]
        pairs = [slice(i, i + 2) for i in range(0, len(images), 2)]
        return [image_rows(tuple(starts[pair]), tuple(grids[pair]), marks) for pair in pairs]

    def _audio(self, record: Record, root: str | None) -> tuple[Record, Float[Array, "c T"]]:
        """The chunks of the record's sound; a video may bring its own, or turn out to be silent."""
        silence = np.zeros((0, self.config.chunk_samples), np.float32)
        spoken = any(AUDIO in text for _, text in record.turns)
        if record.audio is not None:
            self._require("whisper", "audio")
            waveform = self.decode(decode_audio, record.audio, root, self.settings)
        elif isinstance(record.video, str) and spoken and self.config.whisper:
            waveform = self.decode(decode_sound_track, record.video, root, self.settings)
            if waveform is None:
                return record.without_audio(), silence
        elif record.video is not None and spoken:
            return record.without_audio(), silence
        else:
            return record, silence
        return record, chunk(waveform, self.config.chunk_samples)

    def _images(self, record: Record, root: str | None) -> tuple[list[ImagePatches], list[int]]:
        """The views of the images, two each; or a video's distinct frames, and which are shown in turn."""
        if record.video is not None:
            self._require("vision", "video")
            return self.decode(decode_video, record.video, root, self.settings)
        if not record.images:
            return [], []
        self._require("vision", "image")
        return self.decode(decode_images, record.images, root, self.settings), []

    def _require(self, part: str, key: str) -> None:
        if getattr(self.config, part) is None:
            raise OlaError(
                f"{key!r}: this model has no {part} encoder; remove the {key} or use a model that has one"
            )


def _check_limits(limits: PixelLimits, block: int) -> None:
    for name in ("image_multiple", "video_multiple"):
        if (multiple := getattr(limits, name)) % block or multiple <= 0:
            raise OlaError(f"{name} is {multiple} pixels, expected a multiple of {block} (two patches)")
    if limits.max_frames < 1:
        raise OlaError(f"max_frames is {limits.max_frames}, expected at least 1")
