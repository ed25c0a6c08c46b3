import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ola_jax.batch import IGNORE, MARKS, TEXT, Budget
from ola_jax.data.assembly import assemble
from ola_jax.data.rows import misfit, needs
from tests.data.made_up import TINY, made_up_sample

BUDGET = Budget(tokens=48, windows=3, window_patches=40, audio_chunks=3)
sides = st.integers(1, 3).map(lambda n: 2 * n)
shape = st.tuples(st.integers(1, 16), st.lists(st.tuples(sides, sides), max_size=2), st.integers(0, 1))
rows_of_shapes = st.lists(st.lists(shape, max_size=3), min_size=1, max_size=3)


def sample_table(sample):
    """Stand-in features of a sample's own table: bytes of the four patches, sound of the chunk, mark."""
    table = [image.patches.reshape(-1, 48) for image in sample.images]
    rows = [("image", row.tobytes()) for part in table for row in part]
    rows += [("audio", c.tobytes(), t) for c in sample.audio for t in range(TINY.chunk_tokens)]
    return rows + [("mark", name) for name in MARKS]


def row_table(batch, row):
    """The same stand-ins, read from a row of the batch as the model reads it."""
    rows = [("image", group.tobytes()) for group in batch.patches[row].reshape(-1, 48)]
    rows += [("audio", c.tobytes(), t) for c in batch.audio[row] for t in range(TINY.chunk_tokens)]
    return rows + [("mark", name) for name in MARKS]


@settings(max_examples=60, deadline=None)
@given(rows_of_shapes, st.integers(0, 2**32 - 1))
def test_every_feature_lies_where_its_source_says(shapes, seed):
    rng = np.random.default_rng(seed)
    rows = [[made_up_sample(rng, *shape) for shape in row] for row in shapes]
    rows = [row for row in rows if misfit([needs(sample) for sample in row], BUDGET) is None]
    batch = assemble(rows, BUDGET, TINY)
    for r, row in enumerate(rows):
        table, begin = row_table(batch, r), 0
        for segment, sample in enumerate(row, start=1):
            here = r, slice(begin, begin + len(sample.tokens))
            assert (batch.segments[here] == segment).all()
            assert (batch.positions[here] == np.arange(len(sample.tokens))).all()
            np.testing.assert_array_equal(batch.tokens[here], sample.tokens)
            np.testing.assert_array_equal(batch.targets[here], sample.targets)
            own = sample_table(sample)
            for ours, theirs in zip(batch.source[here], sample.source, strict=True):
                assert (ours == TEXT) == (theirs == TEXT)
                if theirs != TEXT:
                    assert table[ours] == own[theirs]
            begin += len(sample.tokens)
        assert not batch.segments[r, begin:].any()
        assert (batch.targets[r, begin:] == IGNORE).all()
        assert (batch.source[r, begin:] == TEXT).all()


@settings(max_examples=60, deadline=None)
@given(rows_of_shapes, st.integers(0, 2**32 - 1))
def test_no_image_crosses_a_window_and_every_patch_knows_its_place(shapes, seed):
    rng = np.random.default_rng(seed)
    rows = [[made_up_sample(rng, *shape) for shape in row] for row in shapes]
    rows = [row for row in rows if misfit([needs(sample) for sample in row], BUDGET) is None]
    batch = assemble(rows, BUDGET, TINY)
    for r, row in enumerate(rows):
        expected = sorted((i.grid, i.patches.tobytes()) for s in row for i in s.images)
        found = []
        for window in range(BUDGET.windows):
            numbers = batch.patch_image[r, window]
            for number in range(1, numbers.max() + 1):
                (at,) = np.nonzero(numbers == number)
                assert (np.diff(at) == 1).all()
                place = batch.patch_position[r, window, at]
                height, width = place[0, 2:]
                assert (place[:, 2:] == (height, width)).all()
                blocks = [
                    (2 * i + di, 2 * j + dj)
                    for i in range(height // 2)
                    for j in range(width // 2)
                    for di in range(2)
                    for dj in range(2)
                ]
                assert list(map(tuple, place[:, :2])) == blocks
                found.append(((height, width), batch.patches[r, window, at].tobytes()))
            assert (batch.patch_position[r, window][numbers == 0] == (0, 0, 1, 1)).all()
        assert sorted(found) == expected


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(30, [], 0), (19, [], 0)], "49 tokens, a row holds 48"),
        ([(1, [], 1)] * 4, "4 audio chunks, a row holds 3"),
        ([(1, [(6, 8)], 0)], "an image of 48 patches, a window holds 40"),
        ([(1, [(6, 6)] * 4, 0)], "4 windows of 40 patches, a row holds 3"),
        ([(48, [(6, 6)] * 3, 3)], None),
    ],
)
def test_what_does_not_fit_is_said(shapes, reason):
    rng = np.random.default_rng(0)
    samples = [made_up_sample(rng, *shape) for shape in shapes]
    assert misfit([needs(sample) for sample in samples], BUDGET) == reason
    if reason:
        with pytest.raises(ValueError, match=reason):
            assemble([samples], BUDGET, TINY)


def test_a_batch_without_media_has_no_windows_and_no_chunks():
    batch = assemble([[made_up_sample(np.random.default_rng(0), 5, [], 0)]], Budget(8), TINY)
    assert batch.patches.shape == (1, 0, 0, 12)
    assert batch.audio.shape == (1, 0, TINY.chunk_samples)
