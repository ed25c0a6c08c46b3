"""What one record becomes: ragged numpy arrays, not yet placed in a row of a batch."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePatches:
    """One view of one image, or one video frame, as raw patches in 2x2-block order."""

    patches: UInt8[np.ndarray, "n P"]  # bytes (row, column, channel) of each patch
    grid: tuple[int, int]  # height and width in patches; both even, n = height * width


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One record, tokenised, its media decoded and merged by `source`.

    `source` points into the sample's own feature table: `concat(pooled patches of images[0],
    images[1], ..., audio tokens [c * tokens per chunk], the seven MARKS)`. Several stretches of
    `source` may point to the same rows (repeated video frames are kept once).
    """

    id: str  # of the record; "" if it has none
    tokens: Int[np.ndarray, "L"]  # anything where `source` is not TEXT
    targets: Int[np.ndarray, "L"]  # the label of the next position, or IGNORE
    source: Int[np.ndarray, "L"]  # TEXT, or a row of the sample's feature table
    images: tuple[ImagePatches, ...]
    audio: Float[np.ndarray, "c T"]  # chunks at 16 kHz, the last one zero padded
    prompt_ids: Int[np.ndarray, "l"]  # before merging: -300 stands for an image or video, -200 for audio
    counts: dict[str, int]  # merged tokens by modality: text, image, video, audio
