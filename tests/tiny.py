"""A model of all parts and batches for it, as small as meshes of 8 devices allow."""

import functools

import jax
import numpy as np

from ola_jax.batch import IGNORE, TEXT, Budget, OlaBatch, feature_table
from ola_jax.config import OlaConfig
from ola_jax.models.ola import init_params

CONFIG = OlaConfig.tiny()
BUDGET = Budget(tokens=64, windows=3, window_patches=16, audio_chunks=2)


def make_batch(rows: int, seed: int, budget: Budget = BUDGET) -> OlaBatch:
    """Random samples; rows differ much in their number of targets."""
    rng = np.random.default_rng(seed)
    length, windows, patches, chunks = (
        budget.tokens,
        budget.windows,
        budget.window_patches,
        budget.audio_chunks,
    )
    table = feature_table(CONFIG, budget).size
    ints = lambda low, high, *shape: rng.integers(low, high, shape).astype(np.int32)
    place = np.stack([np.arange(patches) // 4, np.arange(patches) % 4], -1)
    place = np.concatenate([place, np.full((patches, 2), 4)], -1).astype(np.int32)
    labelled = rng.random((rows, length)) < 0.8 * rng.random((rows, 1)) ** 2
    return OlaBatch(
        tokens=ints(0, CONFIG.llm.vocab_size, rows, length),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segments=np.sort(ints(1, 4, rows, length), axis=1) % 4,
        targets=np.where(labelled, ints(0, CONFIG.llm.vocab_size, rows, length), IGNORE).astype(np.int32),
        source=np.where(rng.random((rows, length)) < 0.5, TEXT, ints(0, table, rows, length)).astype(
            np.int32
        ),
        patches=rng.integers(0, 256, (rows, windows, patches, CONFIG.vision.patch_bytes)).astype(np.uint8),
        patch_image=np.tile(np.repeat(np.int32([1, 2]), patches // 2), (rows, windows, 1)),
        patch_position=np.tile(place, (rows, windows, 1, 1)),
        audio=rng.normal(size=(rows, chunks, CONFIG.chunk_samples)).astype(np.float32) * 0.1,
    )


@functools.cache
def params() -> dict:
    """Random parameters; biases too, which Flax starts at zero."""
    rng = np.random.default_rng(0)
    noise = lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.02
    return jax.tree.map(lambda x: np.asarray(x) + noise(x), init_params(CONFIG, seed=0))
