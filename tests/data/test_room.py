import numpy as np
import pytest
from PIL import Image

from ola_jax.config import PixelLimits
from ola_jax.data.decoding import image_sizes
from ola_jax.data.image import image_views
from ola_jax.data.room import image_tokens, may_exceed
from tests.data.golden_processor import golden_processor

SMALL = PixelLimits(64, 160, 32)


@pytest.mark.parametrize(
    "size", [(1, 1), (33, 31), (160, 160), (161, 160), (300, 20), (20, 300), (999, 5), (64, 700)]
)
@pytest.mark.parametrize("limits", [SMALL, PixelLimits()])
def test_the_size_gives_the_tokens_of_the_image(size, limits):
    def tokens(image):
        low, high = image_views(image, limits)
        return 3 + sum(view.height // 32 * (view.width // 32 + 1) for view in (low, high))

    both = tokens(Image.new("RGB", size)), tokens(Image.new("RGB", size[::-1]))  # it may be turned
    assert image_tokens([size], limits, 16) == [min(both)]


def test_the_header_gives_the_tokens_of_the_sample(tmp_path):
    path = str(tmp_path / "i.png")
    Image.new("RGB", (300, 300)).save(path)
    processor = golden_processor()
    record = {"image": path, "conversations": [{"from": "human", "value": "<image>"}]}
    sizes = image_sizes((path,), None, processor.settings)
    assert sizes == [(300, 300)]
    assert image_tokens(sizes, processor.limits, 16) == [processor.sample(record).counts["image"]]


def test_unreadable_images_have_no_known_size(tmp_path):
    (tmp_path / "i.png").write_bytes(b"no image")
    assert image_sizes((str(tmp_path / "i.png"),), None, golden_processor().settings) == []


def test_few_ordinary_images_never_exceed_a_sample():
    largest = np.zeros((1536, 1536, 3), np.uint8)
    low, high = image_views(Image.fromarray(largest), PixelLimits())
    tokens = 3 + sum(view.height // 32 * (view.width // 32 + 1) for view in (low, high))
    assert not may_exceed(1, PixelLimits(), 16_384)
    assert all(may_exceed(count, PixelLimits(), count * tokens) for count in (1, 2, 5))
