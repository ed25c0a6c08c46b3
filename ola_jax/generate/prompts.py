"""A sample as the engine reads it: tokens, and the parts of its media that are encoded one by one."""

import dataclasses
import hashlib

import numpy as np

from ola_jax.batch import MARKS, TEXT
from ola_jax.config import OlaConfig
from ola_jax.data.sample import EncoderInput, ImagePatches, Sample
from ola_jax.typing import HostArray, Int, UInt8

DIGEST = 32  # bytes


@dataclasses.dataclass(frozen=True, eq=False)
class MediaPart:
    """A view of an image, a frame of a video or a chunk of audio: what is encoded in one call."""

    content: EncoderInput
    row: int  # of the table of features, the first
    rows: int

    @property
    def digest(self) -> bytes:
        """A digest of the bytes, their shape and their dtype."""
        image = isinstance(self.content, ImagePatches)
        array = self.content.patches if isinstance(self.content, ImagePatches) else self.content
        grid = self.content.grid if isinstance(self.content, ImagePatches) else ()
        kind = f"{image} {array.dtype.str} {array.shape} {grid}".encode()
        return hashlib.sha256(kind + b"\0" + np.ascontiguousarray(array).tobytes()).digest()


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """The tokens of a prompt; `source` points to the rows of a table: the seven MARKS, then features."""

    tokens: Int[HostArray, "L"]
    source: Int[HostArray, "L"]  # TEXT, or a row of the table
    parts: tuple[MediaPart, ...]  # in the order of their rows


def prompt(sample: Sample, config: OlaConfig) -> Prompt:
    """The prompt of a sample, for a model with this config."""
    parts, row = [], len(MARKS)
    for content, rows in sample.encoder_inputs(config):
        parts.append(MediaPart(content, row, rows))
        row += rows
    features = row - len(MARKS)
    shifted = np.where(sample.source >= features, sample.source - features, sample.source + len(MARKS))
    source = np.where(sample.source == TEXT, TEXT, shifted).astype(np.int32)
    return Prompt(sample.tokens.astype(np.int32), source, tuple(parts))


def identity(prompt: Prompt) -> UInt8[HostArray, "L bytes"]:
    """Bytes for each token that are equal for equal inputs of the decoder: for reuse of what was computed.

    Text has its id; a feature has the digest of its part and its place in it.
    """
    length = len(prompt.tokens)
    is_text = prompt.source == TEXT
    number = np.where(is_text, prompt.tokens, prompt.source).astype(np.int32)
    kind = np.where(is_text, 0, 1).astype(np.int32)
    digests = np.zeros((length, DIGEST), np.uint8)
    for part in prompt.parts:
        here = (prompt.source >= part.row) & (prompt.source < part.row + part.rows)
        digests[here] = np.frombuffer(part.digest, np.uint8)
        number[here] -= part.row
        kind[here] = 2
    numbers = np.ascontiguousarray(np.stack([kind, number], axis=1))
    return np.concatenate([digests, numbers.view(np.uint8).reshape(length, -1)], axis=1)
