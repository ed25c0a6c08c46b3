"""Samples and rows of a model without downsampling: every patch is a token, row by row of the image."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ola_jax.config import OlaConfig
from ola_jax.data import Processor
from ola_jax.data.assembly import assemble
from ola_jax.data.index import load_index, make_index, save_index
from ola_jax.data.measure import describe_settings, measure
from ola_jax.data.room import image_tokens, may_exceed
from ola_jax.data.rows import needs
from ola_jax.errors import OlaError
from ola_jax.row import MARKS, Budget, feature_table
from tests.data.golden_processor import golden_processor
from tests.data.made_up import conversation
from tests.golden import VISIBLE

ROOT = str(VISIBLE)
NEWLINE = MARKS.index("image_newline")


def processor(**changes: object) -> Processor:
    pooled = golden_processor()
    return dataclasses.replace(pooled, config=dataclasses.replace(pooled.config, **changes))


WHOLE = processor(downsampling="none")
PICTURE = conversation("<image>\nx", "ok", image="inputs/img_tiny.png")
CLIP = conversation("<image>\nx", "ok", video="inputs/clip.mp4")


def features(sample, budget: Budget, config: OlaConfig) -> list[tuple[int, int, int, int] | str]:
    """The position of the patch, or the mark, of each visual token, as the model reads a row of a batch."""
    batch = assemble([[sample]], budget, config)
    table = [tuple(place) for place in batch.patch_position[0].reshape(-1, 4).tolist()]
    assert len(table) == feature_table(config, budget).patches
    first_mark = feature_table(config, budget).start("marks")
    source = batch.source[0][batch.source[0] >= 0].tolist()
    return [table[row] if row < len(table) else MARKS[row - first_mark] for row in source]


@pytest.mark.parametrize("record", [PICTURE, CLIP], ids=["image", "video"])
def test_tokens_are_the_patches_of_an_image_line_by_line(record: dict) -> None:
    sample = WHOLE.sample(record, ROOT)
    expected: list = []
    for number, image in enumerate(sample.images):
        height, width = image.grid
        for row in range(height):
            expected += [(row, column, height, width) for column in range(width)] + ["image_newline"]
        if record is CLIP or number == 0:
            expected.append("image_sep")
    expected = ["image_begin", *expected, "image_end"]
    budget = WHOLE.smallest_budget([sample])
    largest = max(len(image.patches) for image in sample.images)
    roomy = dataclasses.replace(budget, window_patches=3 * largest)  # several images in a window
    for each in (budget, roomy):
        assert features(sample, each, WHOLE.config) == expected


def test_patches_are_the_same_and_tokens_are_more() -> None:
    pooled, whole = (each.sample(PICTURE, ROOT) for each in (golden_processor(), WHOLE))
    assert needs(whole).patches == needs(pooled).patches
    lines = sum(image.grid[0] for image in whole.images)
    patches = sum(len(image.patches) for image in whole.images)
    assert whole.counts["image"] == patches + lines + 3
    assert pooled.counts["image"] == patches // 4 + lines // 2 + 3


def test_the_inputs_of_encoders_have_as_many_rows_as_tokens() -> None:
    record = conversation("<speech><image>\nx", "ok", video="inputs/clip.mp4", audio="inputs/a_short.wav")
    sample = WHOLE.sample(record, ROOT)
    rows = [count for _, count in sample.encoder_inputs(WHOLE.config)]
    assert rows[: len(sample.images)] == [len(image.patches) for image in sample.images]
    assert rows[len(sample.images) :] == [WHOLE.config.chunk_tokens] * len(sample.audio)


def test_the_size_of_an_image_gives_its_tokens(tmp_path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "i.png")
    sample = WHOLE.sample(conversation("<image>", "ok", image=str(tmp_path / "i.png")))
    turned = WHOLE.sample(conversation("<image>", "ok", image=_save_turned(tmp_path)))
    expected = min(sample.counts["image"], turned.counts["image"])
    assert image_tokens([(300, 200)], WHOLE.limits, 16, 1) == [expected]
    limits = WHOLE.limits
    side = limits.high_res_max_side // 16
    assert may_exceed(1, limits, side * (side + 1), 1)
    assert not may_exceed(1, limits, 3 * (side + 1) ** 2, 1)


def _save_turned(folder) -> str:
    Image.new("RGB", (200, 300)).save(folder / "turned.png")
    return str(folder / "turned.png")


def test_an_index_of_other_downsampling_is_refused(tmp_path) -> None:
    pooled = golden_processor()
    sizes = [make_index([measure(each, PICTURE, ROOT)]) for each in (pooled, WHOLE)]
    assert sizes[0].digest() != sizes[1].digest()
    assert (sizes[0].tokens < sizes[1].tokens).all()
    save_index(tmp_path / "i.index", sizes[0], settings=describe_settings(pooled), records="")
    mean = processor(downsampling="mean")  # as many tokens as Ola's
    loaded = load_index(tmp_path / "i.index", settings=describe_settings(mean))
    np.testing.assert_array_equal(loaded.tokens, sizes[0].tokens)
    with pytest.raises(OlaError, match="made with token_side = None, now 1"):
        load_index(tmp_path / "i.index", settings=describe_settings(WHOLE))


def test_one_audio_encoder_is_enough_for_audio() -> None:
    record = conversation("<speech>\nx", "ok", audio="inputs/a_short.wav")
    both = golden_processor()
    frames = both.config.chunk_samples // 160
    alone = processor(whisper=None, beats_chunk=frames)
    sample = alone.sample(record, ROOT)
    np.testing.assert_array_equal(sample.audio, both.sample(record, ROOT).audio)
    assert sample.counts["audio"] == len(sample.audio) * (alone.config.chunk_tokens + 1) + 2
    with pytest.raises(OlaError, match="'audio': this model has no audio encoder"):
        processor(whisper=None, beats=None).sample(record, ROOT)
