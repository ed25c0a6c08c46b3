"""What the host hands to the device: one batch of fixed shapes, planned in advance."""

import dataclasses

from flax import struct

from ola_jax.typing import Array, Float, Int, UInt8

IGNORE = -100  # a target on which there is no loss
TEXT = -1  # a `source` that means: embed the token
MARKS = (
    "image_newline",
    "image_begin",
    "image_end",
    "image_sep",
    "speech_newline",
    "speech_begin",
    "speech_end",
)


@struct.dataclass
class OlaBatch:
    """B rows; each holds several packed samples and owns all of their media.

    Patches lie in 2x2-block order: the four that pooling merges are neighbours. The feature table
    of a row, which `source` points into, is `concat(pooled patches [W * N / 4], audio tokens
    [C * tokens per chunk], the seven learned MARKS)`. W = 0 or C = 0 is legal and skips an encoder.
    """

    tokens: Int[Array, "B L"]  # token ids; anything where `source` is not TEXT
    positions: Int[Array, "B L"]  # position within its sample, for RoPE
    segments: Int[Array, "B L"]  # number of the sample in its row from 1; 0 is padding
    targets: Int[Array, "B L"]  # the next token to predict, or IGNORE
    source: Int[Array, "B L"]  # TEXT, or a row of the feature table
    patches: UInt8[Array, "B W N P"]  # raw RGB bytes of 16x16 patches (row, column, channel)
    patch_image: Int[Array, "B W N"]  # number of the image in its window from 1; 0 is padding
    patch_position: Int[Array, "B W N 4"]  # row, column, grid height, grid width (patches)
    audio: Float[Array, "B C T"]  # samples at 16 kHz in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fixed sizes of one row of an OlaBatch."""

    tokens: int  # L
    windows: int = 0  # W
    window_patches: int = 0  # N, patches; a multiple of 4
    audio_chunks: int = 0  # C
