"""The batch that the host passes to the device: fixed shapes, planned in advance.

What its fields hold and their sizes are defined in `ola_jax.row`.
"""

import jax
import numpy as np
from flax import struct

from ola_jax.config import OlaConfig
from ola_jax.row import (
    IGNORE,
    IMAGE_MARKS,
    MARKS,
    MODALITIES,
    PADDING,
    PARTS,
    POOLED,
    SPEECH_MARKS,
    TEXT,
    Budget,
    FeatureTable,
    Modality,
    feature_table,
    mark_rows,
    row_fields,
)
from ola_jax.typing import AnyArray, Float, HostArray, Int, UInt8

__all__ = [
    "IGNORE",
    "IMAGE_MARKS",
    "MARKS",
    "MODALITIES",
    "PADDING",
    "PARTS",
    "POOLED",
    "SPEECH_MARKS",
    "TEXT",
    "Budget",
    "FeatureTable",
    "Modality",
    "OlaBatch",
    "feature_table",
    "mark_rows",
    "padding",
    "spec",
]


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


def spec(config: OlaConfig, rows: int, budget: Budget) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each field of a batch."""
    fields = row_fields(config, budget)
    return {name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in fields.items()}


def padding(config: OlaConfig, rows: int, budget: Budget) -> OlaBatch:
    """A batch (numpy leaves) of padding only, to be written into."""
    fields: dict[str, HostArray] = {}
    for name, field in spec(config, rows, budget).items():
        fields[name] = np.full(field.shape, PADDING.get(name, 0), field.dtype)
    return OlaBatch(**fields)
