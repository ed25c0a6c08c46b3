"""The two settings of images in which the paper's evaluations differ from the released inference script."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from ola_jax.batch import mark_rows
from ola_jax.config import PixelLimits, ProcessorConfig
from ola_jax.data.image import enlarge, image_views
from ola_jax.data.layout import image_rows
from ola_jax.data.processor import Processor
from ola_jax.data.room import image_tokens
from ola_jax.data.tokenizer import load_tokenizer
from tests import golden, tiny


def processor(**changes: object) -> Processor:
    limits = dataclasses.replace(PixelLimits(low_res_side=64, high_res_max_side=128), **changes)
    config = ProcessorConfig(system_prompt="", infer=limits, train=limits)
    model = dataclasses.replace(tiny.CONFIG, llm=dataclasses.replace(tiny.CONFIG.llm, vocab_size=768))
    return Processor(model, config, load_tokenizer(golden.VISIBLE / "hf"), preset="infer")


def record(path: pathlib.Path, size: tuple[int, int]) -> dict:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return {"image": [str(path)], "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}]}


def test_the_high_view_alone_has_neither_low_view_nor_separator(tmp_path: pathlib.Path) -> None:
    asked = record(tmp_path / "a.png", (96, 64))
    both, high = processor().sample(asked), processor(high_view_only=True).sample(asked)
    assert [image.grid for image in both.images] == [both.images[0].grid, high.images[0].grid]
    assert np.array_equal(both.images[1].patches, high.images[0].patches)
    low = both.images[0].grid
    assert both.counts["image"] - high.counts["image"] == low[0] // 2 * (low[1] // 2 + 1) + 1
    assert high.counts["text"] == both.counts["text"]
    begin, sep, end = (mark_rows(9)[f"image_{name}"] for name in ("begin", "sep", "end"))
    rows = image_rows([0], [(4, 4)], 9).tolist()
    assert (rows[0], rows[-1]) == (begin, end)
    assert sep not in rows


def test_two_images_keep_their_order_with_the_high_view_alone(tmp_path: pathlib.Path) -> None:
    first, second = (
        record(tmp_path / name, size) for name, size in (("a.png", (64, 64)), ("b.png", (96, 96)))
    )
    both = {
        "image": [*first["image"], *second["image"]],
        "conversations": [{"from": "human", "value": "<image>\n<image>\nWhich?"}],
    }
    sample = processor(high_view_only=True).sample(both)
    assert [image.grid for image in sample.images] == [(4, 4), (6, 6)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((20, 100), (64, 320)),
        ((100, 20), (320, 64)),
        ((10, 20), (64, 128)),
        ((32, 32), (32, 32)),
        ((31, 31), (64, 64)),
    ],
)
def test_an_image_with_a_short_side_is_enlarged_until_it_is_64(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert enlarge(Image.new("RGB", size), 32).size == expected
    assert enlarge(Image.new("P", size), 32).size == expected
    assert enlarge(Image.new("RGB", size), 0).size == size


@pytest.mark.parametrize("high_view_only", [False, True])
@pytest.mark.parametrize("smallest", [0, 32])
@pytest.mark.parametrize("size", [(20, 50), (300, 200), (64, 96)])
def test_the_estimate_of_tokens_counts_these_settings(
    high_view_only: bool, smallest: int, size: tuple[int, int], tmp_path: pathlib.Path
) -> None:
    settings = processor(high_view_only=high_view_only, smallest_image_side=smallest)
    sample = settings.sample(record(tmp_path / "a.png", size))
    rotated = settings.sample(record(tmp_path / "b.png", size[::-1]))
    counts = sample.counts["image"], rotated.counts["image"]
    assert image_tokens([size], settings.limits, 16) == [min(counts)]
    views = image_views(enlarge(Image.open(tmp_path / "a.png"), smallest), settings.limits)
    assert len(sample.images) == (1 if high_view_only else len(views))
