import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.models.oryx_vit import OryxViT, normalize, resample_position_embedding
from tests import golden
from tests.released import released

EXPECTED = golden.arrays("vision.npz")
TOLERANCE = golden.stage("vision")["tolerance"]


def test_bytes_become_the_originals_pixels() -> None:
    k = np.arange(256, dtype=np.uint8)
    expected = ((k * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_allclose(normalize(jnp.asarray(k)), expected, atol=2e-7)


@pytest.mark.parametrize("grid", ["2x2", "4x6", "12x9", "37x61", "128x128", "130x64"])
def test_position_grid_is_resampled_as_in_torch(grid: str) -> None:
    height, width = map(int, grid.split("x"))
    rows, columns = np.divmod(np.arange(height * width), width)
    position = np.stack([rows, columns, np.full_like(rows, height), np.full_like(rows, width)], -1)
    table = jnp.asarray(released().params["vision"]["position_embedding"])
    actual = np.asarray(resample_position_embedding(table, jnp.asarray(position.astype(np.int32))))[None]
    kept = EXPECTED.get(f"pos_embed_{grid}__idx")
    actual = actual if kept is None else actual[:, kept]
    golden.assert_close(actual, EXPECTED[f"pos_embed_{grid}"], TOLERANCE[f"pos_embed_{grid}"], grid)


def patches_of(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised patches [n, 768] and positions [n, 4] of one float image [3, h, w], zero-padded."""
    image = np.pad(image, ((0, 0), (0, -image.shape[1] % 16), (0, -image.shape[2] % 16)))
    rows, columns = image.shape[1] // 16, image.shape[2] // 16
    patches = image.reshape(3, rows, 16, columns, 16).transpose(1, 3, 2, 4, 0).reshape(-1, 768)
    r, c = np.divmod(np.arange(rows * columns), columns)
    return patches, np.stack([r, c, np.full_like(r, rows), np.full_like(r, columns)], -1).astype(np.int32)


def encode(pixels: np.ndarray, image: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, dict]:
    """Features of a batch of windows, and the intermediates of the modules."""
    model = OryxViT(released().config.vision)
    apply = jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs, mutable="intermediates"))
    features, sown = apply(released().params["vision"], pixels, image, position)
    return np.asarray(features), sown["intermediates"]


def assert_equals_original(name: str, actual: np.ndarray) -> None:
    golden.assert_close(actual, EXPECTED[name], TOLERANCE.get(name), name)


def test_images_of_any_size_share_a_window_without_attending_to_each_other() -> None:
    images = [patches_of(EXPECTED[f"in_img{i}"][0]) for i in range(4)]
    sizes = [len(patches) for patches, _ in images]
    padding = 6  # patches after the last image
    pixels = np.pad(np.concatenate([patches for patches, _ in images]), ((0, padding), (0, 0)))[None]
    position = np.pad(np.concatenate([position for _, position in images]), ((0, padding), (0, 0)))[None]
    image = np.repeat([1, 2, 3, 4, 0], [*sizes, padding])[None].astype(np.int32)

    features, sown = encode(pixels, image, position)

    used = sum(sizes)
    blocks = np.asarray(sown["blocks"]["output"][0])
    assert_equals_original("list_block0", blocks[0][:, :used])
    assert_equals_original("list_block1", blocks[1][:, :used])
    starts = np.cumsum([0, *sizes])
    for i in range(4):
        assert_equals_original(f"list_feat{i}", features[:, starts[i] : starts[i + 1]])


def test_windows_of_one_image_each_equal_an_ordinary_batch() -> None:
    pixels, position = zip(*[patches_of(image) for image in EXPECTED["in_batch"]], strict=True)
    image = np.ones((3, len(position[0])), np.int32)
    features, sown = encode(np.stack(pixels), image, np.stack(position))
    blocks = np.asarray(sown["blocks"]["output"][0])
    assert_equals_original("batch_block0", blocks[0])
    assert_equals_original("batch_block1", blocks[1])
    assert_equals_original("batch_feat", features)
