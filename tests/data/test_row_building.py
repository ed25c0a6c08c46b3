"""Rows from records: holes leave the others where they were; what is sent between processes loses nothing."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ola_jax.data.assembly import assemble, join_rows
from ola_jax.data.index import Failure
from ola_jax.data.row_building import PlannedRecord, RowBuilder, compact, narrow_audio
from ola_jax.data.rows import assemble_row, misfit, needs, row_use, utilization
from ola_jax.data.sources import Source
from ola_jax.row import Budget
from tests.data.made_up import TINY, conversation, made_up_sample, tiny_processor

BUDGET = Budget(tokens=96, windows=3, window_patches=40, audio_chunks=4)
SHAPE = st.tuples(
    st.integers(1, 30),
    st.lists(st.sampled_from([(2, 2), (2, 4), (4, 4), (4, 8)]), max_size=3),
    st.integers(0, 2),
)


def run(steps):
    """What a generator returns, and the list of what it yields."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            return stop.value, seen


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPE, min_size=1, max_size=5), seed=st.integers(0, 99), data=st.data())
def test_a_hole_leaves_the_other_samples_where_they_were(shapes, seed, data):
    rng = np.random.default_rng(seed)
    samples = [made_up_sample(rng, *shape) for shape in shapes]
    sizes = [needs(sample) for sample in samples]
    if misfit(sizes, BUDGET):
        return
    gone = data.draw(st.integers(0, len(samples) - 1))
    complete = assemble_row(samples, sizes, BUDGET, TINY)
    holed = assemble_row([None if i == gone else s for i, s in enumerate(samples)], sizes, BUDGET, TINY)
    assert (holed["segments"].max(initial=0), complete["segments"].max()) == (len(samples) - 1, len(samples))
    # The patches of the others are where they are without a hole; what is left of the rest is padding.
    kept = (holed["patch_image"] > 0) & (complete["patch_image"] > 0)
    assert kept.sum() == (holed["patch_image"] > 0).sum()
    assert (holed["patches"][kept] == complete["patches"][kept]).all()
    assert not holed["patches"][~kept].any()
    assert kept.sum() == sum(sum(size.patches) for i, size in enumerate(sizes) if i != gone)
    # Tokens follow each other; each sample reads the same patches as before.
    begin = end = 0
    for number, sample in enumerate(samples):
        before = slice(end, end + len(sample.tokens))
        end += len(sample.tokens)
        if number != gone:
            now = slice(begin, begin + len(sample.tokens))
            begin += len(sample.tokens)
            assert (holed["tokens"][now] == complete["tokens"][before]).all()
            visual = complete["source"][before] < BUDGET.windows * BUDGET.window_patches // 4
            assert (holed["source"][now] == complete["source"][before])[visual].all()


@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(SHAPE, max_size=5), seed=st.integers(0, 99))
def test_a_compact_row_makes_the_same_batch(shapes, seed):
    rng = np.random.default_rng(seed)
    samples = [made_up_sample(rng, *shape) for shape in shapes]
    if seed % 2:  # audio as of a file of 16 bits
        whole = lambda audio: (audio * 32767).astype(np.int16) / np.float32(32768)
        samples = [dataclasses.replace(sample, audio=whole(sample.audio)) for sample in samples]
    if misfit([needs(sample) for sample in samples], BUDGET):
        return
    expected = assemble([samples], BUDGET, TINY)
    row = assemble_row(samples, [needs(sample) for sample in samples], BUDGET, TINY)
    use = row_use(row, samples)
    small = compact(row, use.get("audio_chunks", 0))
    found = join_rows([small], BUDGET, TINY)
    for name in expected.__dataclass_fields__:
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()
    assert len(small["audio"]) == sum(len(sample.audio) for sample in samples)
    assert small["audio"].dtype == (np.int16 if seed % 2 or not small["audio"].size else np.float32)
    shares = utilization([use], BUDGET)
    assert shares["tokens"] == (expected.segments > 0).mean()
    assert shares["patches"] == (expected.patch_image > 0).mean()
    assert shares["windows"] == (expected.patch_image > 0).any(-1).mean()


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ([0.0, 1 / 32768, -1.0, 32767 / 32768], True),
        ([1.0], False),
        ([1 / 65536], False),
        ([-0.0], False),  # would come back as 0.0
        ([float("nan")], False),
        ([float("inf")], False),
        ([-32769 / 32768], False),
        ([1e-12], False),
    ],
)
def test_audio_is_narrowed_only_if_nothing_is_lost(values, exact):
    audio = np.zeros((2, 5), np.float32)
    audio[1, : len(values)] = values
    with np.errstate(invalid="ignore"):
        narrow = narrow_audio(audio)
    assert narrow.dtype == (np.int16 if exact else np.float32)
    if exact:
        audio_again = narrow * np.float32(1 / 32768)
        assert audio_again.tobytes() == audio.tobytes()
    else:
        assert narrow is audio


def test_a_row_is_built_record_by_record():
    builder = RowBuilder(tiny_processor(), (Source("r.json"),), Budget(tokens=200))
    records = [conversation("a", "b", id="first"), conversation("c", id="second"), conversation("d", "e")]
    planned = [PlannedRecord(0, 7 + i, record) for i, record in enumerate(records)]
    planned.append(PlannedRecord(0, 3, Failure("timed out", "it took long")))
    row, seen = run(builder.build(planned))
    assert seen == [0, 1, 2, 3, 4]
    assert row.records == ((0, 7, "first"), (0, 9, ""))
    assert [(index, failure.kind) for _, index, failure in row.holes] == [
        (8, "nothing to learn"),
        (3, "timed out"),
    ]
    assert row.fields["segments"].max() == 2
    assert row.use["tokens"] == (row.fields["segments"] > 0).sum()


def test_records_that_are_not_in_memory_are_read_where_they_are_decoded(tmp_path):
    records = [conversation("a", "b", id="first"), conversation("c", "d", id="second")]
    builder = RowBuilder(tiny_processor(), (Source("r"),), Budget(tokens=200), (tuple(records),))
    planned = [PlannedRecord(0, number, None) for number in (1, 0, 5)]
    row, _ = run(builder.build(planned))
    assert row.records == ((0, 1, "second"), (0, 0, "first"))
    ((_, index, failure),) = row.holes
    assert (index, failure.kind) == (5, "malformed record")
    sizes = run(builder.measure(planned[:2]))[1]
    assert [size.kind for size in sizes] == ["text", "text"]


def test_building_rows_imports_no_jax():
    code = "import sys, ola_jax.data.row_building; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {*out.stdout.split()}
    assert "ola_jax.data.processor" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "grain", "orbax", "numba", "scipy", "librosa"}
