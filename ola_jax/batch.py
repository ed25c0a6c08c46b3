"""The batch that the host passes to the device: fixed shapes, planned in advance.

Each fact about a batch is defined here once: its fields with their shapes, dtypes and padding, the sizes of
a row, and the order of the feature table.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
from flax import struct

from ola_jax.config import OlaConfig, OryxViTConfig
from ola_jax.typing import AnyArray, Float, HostArray, Int, UInt8

IGNORE = -100  # a target on which there is no loss
TEXT = -1  # a `source` that means: embed the token
POOLED = 4  # patches that become one feature: a block of 2x2

Modality = Literal["text", "image", "video", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "video", "audio")  # by which tokens are counted

# The learned features of each projector, and all of them in the order of their rows.
IMAGE_MARKS = ("image_newline", "image_begin", "image_end", "image_sep")
SPEECH_MARKS = ("speech_newline", "speech_begin", "speech_end")
MARKS = (*IMAGE_MARKS, *SPEECH_MARKS)

# Fields of a batch that are not padded with zeros.
PADDING: dict[str, Any] = {
    "targets": IGNORE,
    "source": TEXT,
    "patch_position": (0, 0, 1, 1),  # a grid of 1x1, so that nothing is divided by zero
}


@struct.dataclass
class OlaBatch:
    """B rows; each holds several packed samples and owns all of their media.

    Patches are in 2x2-block order: the four that pooling combines are neighbours. `source` points into the
    FeatureTable of its row. W = 0 or C = 0 is legal and skips an encoder.
    """

    tokens: Int[AnyArray, "B L"]  # token ids; anything where `source` is not TEXT
    positions: Int[AnyArray, "B L"]  # position within its sample, for RoPE
    segments: Int[AnyArray, "B L"]  # number of the sample in its row from 1; 0 is padding
    targets: Int[AnyArray, "B L"]  # the next token to predict, or IGNORE
    source: Int[AnyArray, "B L"]  # TEXT, or a row of the feature table
    patches: UInt8[AnyArray, "B W N P"]  # raw RGB bytes of 16x16 patches (row, column, channel)
    patch_image: Int[AnyArray, "B W N"]  # number of the image in its window from 1; 0 is padding
    patch_position: Int[AnyArray, "B W N 4"]  # row, column, grid height, grid width (patches)
    audio: Float[AnyArray, "B C T"]  # samples at 16 kHz in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fixed sizes of one row of an OlaBatch."""

    tokens: int  # L
    windows: int = 0  # W
    window_patches: int = 0  # N, patches; a multiple of 4
    audio_chunks: int = 0  # C


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """The number of rows of each part of a feature table, in order.

    A row of a batch has one, with a row for each feature that its budget allows. A Sample has one in the same
    order, with its own features only.
    """

    patches: int = 0  # pooled patches
    audio: int = 0  # tokens of the audio chunks
    marks: int = len(MARKS)

    def start(self, part: str) -> int:
        """The first row of a part."""
        return sum(getattr(self, before) for before in PARTS[: PARTS.index(part)])

    @property
    def size(self) -> int:
        """The number of all rows."""
        return sum(getattr(self, part) for part in PARTS)


PARTS = tuple(field.name for field in dataclasses.fields(FeatureTable))  # of a feature table, in order


def feature_table(config: OlaConfig, budget: Budget) -> FeatureTable:
    """The feature table of a row of a batch."""
    return FeatureTable(
        patches=budget.windows * budget.window_patches // POOLED,
        audio=budget.audio_chunks * config.chunk_tokens,
    )


def mark_rows(start: int) -> dict[str, int]:
    """The row of each mark in a feature table whose marks begin at `start`."""
    return {name: start + number for number, name in enumerate(MARKS)}


def spec(config: OlaConfig, rows: int, budget: Budget) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each field of a batch."""
    ints = lambda *shape: jax.ShapeDtypeStruct((rows, *shape), np.int32)
    windows = budget.windows, budget.window_patches
    patch_bytes = (config.vision or OryxViTConfig()).patch_bytes
    return {
        "tokens": ints(budget.tokens),
        "positions": ints(budget.tokens),
        "segments": ints(budget.tokens),
        "targets": ints(budget.tokens),
        "source": ints(budget.tokens),
        "patches": jax.ShapeDtypeStruct((rows, *windows, patch_bytes), np.uint8),
        "patch_image": ints(*windows),
        "patch_position": ints(*windows, 4),
        "audio": jax.ShapeDtypeStruct((rows, budget.audio_chunks, config.chunk_samples), np.float32),
    }


def padding(config: OlaConfig, rows: int, budget: Budget) -> OlaBatch:
    """A batch (numpy leaves) of padding only, to be written into."""
    fields: dict[str, HostArray] = {}
    for name, field in spec(config, rows, budget).items():
        fields[name] = np.full(field.shape, PADDING.get(name, 0), field.dtype)
    return OlaBatch(**fields)
