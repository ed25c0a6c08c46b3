"""One record, ready to be packed into a row of a batch: ragged numpy arrays.

It does not import `ola_jax.typing`, as a process that decodes media starts without JAX.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, UInt8

from ola_jax.config import OlaConfig


@dataclasses.dataclass(frozen=True, eq=False)
class ImagePatches:
    """One view of one image, or one video frame, as raw patches in 2x2-block order."""

    patches: UInt8[np.ndarray, "n P"]  # bytes (row, column, channel) of each patch
    grid: tuple[int, int]  # height and width in patches; both even, n = height * width


EncoderInput = ImagePatches | Float[np.ndarray, "T"]  # a view of an image, a video frame, or a chunk of audio


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One record, tokenized, its media decoded and merged by `source`.

    `source` points into the sample's own feature table (a FeatureTable): the features of images[0],
    images[1], ..., the tokens of the audio chunks, the marks. Several stretches of `source` may point to the
    same rows (repeated video frames are kept once).
    """

    id: str  # of the record; "" if it has none
    tokens: Int[np.ndarray, "L"]  # anything where `source` is not TEXT
    targets: Int[np.ndarray, "L"]  # the label of the next position, or IGNORE
    source: Int[np.ndarray, "L"]  # TEXT, or a row of the sample's feature table
    images: tuple[ImagePatches, ...]
    audio: Float[np.ndarray, "c T"]  # chunks at 16 kHz, the last one zero padded
    prompt_ids: Int[np.ndarray, "l"]  # before merging: -300 is an image or video, -200 audio
    counts: dict[str, int]  # merged tokens by modality: text, image, video, audio

    def encoder_inputs(self, config: OlaConfig) -> Iterator[tuple[EncoderInput, int]]:
        """Yields the inputs of encoders in the order of the feature table, each with its number of rows."""
        from ola_jax.data.layout import pooled_size  # it imports JAX

        yield from ((image, pooled_size(image.grid, config.token_side)) for image in self.images)
        yield from ((chunk, config.chunk_tokens) for chunk in self.audio)
