"""A row of a batch: its fixed sizes, what its fields hold, the order of its feature table.

Each fact is defined here once. Nothing here imports JAX: processes that assemble rows start without it.
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from ola_jax.config import OlaConfig, OryxViTConfig

IGNORE = -100  # a target on which there is no loss
TEXT = -1  # a `source` that means: embed the token
POOLED = 4  # patches of a 2x2 block, which are pooled to one feature

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

    patches: int = 0  # pooled patches, or all without downsampling
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
        patches=budget.windows * budget.window_patches // config.token_side**2,
        audio=budget.audio_chunks * config.chunk_tokens,
    )


def mark_rows(start: int) -> dict[str, int]:
    """The row of each mark in a feature table whose marks begin at `start`."""
    return {name: start + number for number, name in enumerate(MARKS)}


def count_limits(budget: Budget) -> dict[str, int]:
    """The room of a row for what is simply counted: tokens, audio_chunks; not windows of images."""
    fields = dataclasses.asdict(budget)
    return {name: size for name, size in fields.items() if name not in ("windows", "window_patches")}


def row_fields(config: OlaConfig, budget: Budget) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each field of a row."""
    windows = budget.windows, budget.window_patches
    patch_bytes = (config.vision or OryxViTConfig()).patch_bytes
    int32, length = np.dtype(np.int32), (budget.tokens,)
    return {
        "tokens": (length, int32),
        "positions": (length, int32),
        "segments": (length, int32),
        "targets": (length, int32),
        "source": (length, int32),
        "patches": ((*windows, patch_bytes), np.dtype(np.uint8)),
        "patch_image": (windows, int32),
        "patch_position": ((*windows, 4), int32),
        "audio": ((budget.audio_chunks, config.chunk_samples), np.dtype(np.float32)),
    }


def padding_row(config: OlaConfig, budget: Budget) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The fields of a row of padding only, to be written into."""
    fields = row_fields(config, budget)
    return {name: np.full(shape, PADDING.get(name, 0), dtype) for name, (shape, dtype) in fields.items()}
