"""Images encoded in pieces: the features of one call, bit for bit."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from ola_jax.data.sample import ImagePatches
from ola_jax.generate import encoding, encoding_images
from ola_jax.models.ola import Ola
from tests import tiny


def outcome(pieces: Iterator[jax.Array | None]) -> tuple[int, np.ndarray]:
    """The number of pieces, and the features, which are the last."""
    found = list(pieces)
    assert all(piece is None for piece in found[:-1])
    assert found[-1] is not None
    return len(found), np.asarray(found[-1])


@pytest.mark.parametrize("on", ["cpu", "tpu"])
def test_a_large_image_is_encoded_in_pieces_with_the_features_of_one(
    on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (36 * 40, 768)).astype(np.uint8)
    content = ImagePatches(image, (36, 40))
    encode = lambda: outcome(encoding.encode(Ola(tiny.CONFIG), tiny.params(), content))
    monkeypatch.setattr(encoding_images, "platform", lambda: on)
    pieces, features = encode()
    layers, blocks = tiny.CONFIG.vision.num_layers, -(-48 * 48 // encoding_images.QUERIES_ON_CPU)
    assert pieces == 2 + layers * (2 + blocks if on == "cpu" else 1)
    monkeypatch.setattr(encoding_images, "AT_ONCE", 48 * 48)
    whole, expected = encode()
    assert whole == 1
    tokens = len(image) // 4  # padding stands behind them
    np.testing.assert_array_equal(features[:tokens], expected[:tokens])
