"""The facts of a batch: fields, padding, feature table."""

import dataclasses

import numpy as np
import pytest

from ola_jax.batch import (
    IGNORE,
    MARKS,
    PARTS,
    TEXT,
    Budget,
    FeatureTable,
    OlaBatch,
    feature_table,
    mark_rows,
    padding,
    spec,
)
from ola_jax.config import OlaConfig
from tests import tiny

NO_MEDIA = Budget(tokens=8)
IMAGE_ONLY = dataclasses.replace(OlaConfig.tiny(), whisper=None, beats=None)
TEXT_ONLY = dataclasses.replace(IMAGE_ONLY, vision=None)


@pytest.mark.parametrize("config", [OlaConfig.tiny(), IMAGE_ONLY, TEXT_ONLY], ids=["all", "images", "text"])
@pytest.mark.parametrize("budget", [tiny.BUDGET, NO_MEDIA], ids=["media", "none"])
def test_padding_has_every_field_as_specified(config: OlaConfig, budget: Budget) -> None:
    batch, expected = padding(config, 3, budget), spec(config, 3, budget)
    assert list(expected) == [field.name for field in dataclasses.fields(OlaBatch)]
    for name, field in expected.items():
        array = getattr(batch, name)
        assert (array.shape, array.dtype) == (field.shape, field.dtype), name


def test_padding_belongs_to_no_sample_and_divides_by_nothing() -> None:
    batch = padding(tiny.CONFIG, 2, tiny.BUDGET)
    assert not batch.segments.any()
    assert not batch.patch_image.any()
    assert (batch.targets == IGNORE).all()
    assert (batch.source == TEXT).all()
    assert (batch.patch_position == (0, 0, 1, 1)).all()
    batch.tokens[1, 2] = 5  # it is there to be written into, each field in memory of its own
    assert not batch.positions.any()


def test_the_parts_of_a_feature_table_follow_each_other() -> None:
    table = feature_table(tiny.CONFIG, tiny.BUDGET)
    assert table == FeatureTable(patches=3 * 16 // 4, audio=2 * tiny.CONFIG.chunk_tokens)
    starts = [table.start(part) for part in PARTS]
    sizes = [getattr(table, part) for part in PARTS]
    assert starts == [0, *np.cumsum(sizes)[:-1]]
    assert table.size == sum(sizes)
    rows = mark_rows(table.start("marks"))
    assert list(rows) == list(MARKS)
    assert list(rows.values()) == list(range(table.size - len(MARKS), table.size))
