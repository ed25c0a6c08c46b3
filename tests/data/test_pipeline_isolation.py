"""Rows of the training input from processes: media that hang or crash their decoder cost one record."""

import contextlib
import dataclasses
import logging
import threading
import time

import numpy as np
import psutil
import pytest
import soundfile

from ola_jax.config import MediaLimits
from ola_jax.data import Source, worker_processes
from ola_jax.errors import OlaError
from tests.data import decoders
from tests.data.batches import BUDGET, are_equal, iterate, record_ids
from tests.data.made_up import conversation, tiny_processor, write_json, write_records


def read_until_closed(iterator):
    with contextlib.suppress(Exception):
        for _ in iterator:
            pass


def children():
    return set(psutil.Process().children())


def processor_with(decode, seconds=60.0):
    processor = tiny_processor(media=MediaLimits(decode_seconds=seconds))
    return dataclasses.replace(processor, decode=decode)


def test_rows_are_built_in_processes_to_the_same_batches(source):
    before = children()
    iterator = iterate([source], workers=2, epochs=2)
    assert all(are_equal(a, b) for a, b in zip(iterator, iterate([source], epochs=2), strict=True))
    assert 1 <= len(children() - before) <= 2
    iterator.close()
    assert children() <= before


@pytest.mark.parametrize(
    ("decode", "kind"),
    [(decoders.hang_at_image_3, "timed out"), (decoders.leave_at_image_3, "decoder crashed")],
)
@pytest.mark.parametrize("cache", [False, True])
def test_media_that_hang_or_crash_when_they_are_measured_are_skipped(tmp_path, decode, kind, cache):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    processor = processor_with(decode, seconds=4.0)  # others take milliseconds, more on a busy machine
    iterator = iterate([source], processor=processor, workers=2, epochs=1, max_skipped=1, cache=cache)
    assert [(skip.index, skip.kind) for skip in iterator.skips] == [(3, kind)]
    batches = list(iterator)
    iterator.close()
    assert len(record_ids(batches)) == 11
    assert [batch.skipped for batch in batches] == [{kind: 1}] * len(batches)
    assert "record 'r3': records.json3.png: " in iterator.skips[0].reason


@pytest.mark.parametrize(
    ("decode", "kind"),
    [
        (decoders.hang_at_image_3_if_armed, "timed out"),
        (decoders.leave_at_image_3_if_armed, "decoder crashed"),
    ],
)
def test_media_that_hang_or_crash_in_a_row_leave_a_hole(tmp_path, decode, kind):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    complete = list(iterate([source], epochs=1))
    processor = processor_with(decode, seconds=4.0)  # others take milliseconds, more on a busy machine
    iterator = iterate([source], processor=processor, workers=2, epochs=1, max_skipped=1)
    (tmp_path / "armed").touch()
    batches = list(iterator)
    iterator.close()
    expected = [
        [each.id for each in row if each.id != "r3"] for batch in complete for row in batch.record_ids
    ]
    assert [[each.id for each in row] for batch in batches for row in batch.record_ids] == expected
    assert batches[-1].skipped == {kind: 1}
    assert "record 'r3': records.json3.png: " in iterator.skips[0].reason


def test_close_does_not_wait_for_media_that_hang(tmp_path, caplog):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    iterator = iterate([source], processor=processor_with(decoders.hang_if_armed), workers=2, max_skipped=12)
    next(iterator)
    (tmp_path / "armed").touch()
    reader = threading.Thread(target=lambda: read_until_closed(iterator))
    reader.start()
    end = time.monotonic() + 120
    while not (tmp_path / "hanging").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    began = time.monotonic()
    iterator.close()
    assert time.monotonic() - began < 50  # of the 60 seconds that a record may take
    reader.join(120)
    assert not reader.is_alive()
    assert not iterator.skips
    assert not caplog.messages


@pytest.mark.parametrize("workers", [0, 2])
def test_a_closed_iterator_gives_no_more_batches(source, workers):
    iterator = iterate([source], workers=workers)
    next(iterator)
    iterator.close()
    with pytest.raises(OlaError, match="the training data was closed"):
        next(iterator)


def test_media_that_are_waited_for_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(worker_processes, "NOTICE_SECONDS", 0.2)
    source = Source(write_records(tmp_path, 5), str(tmp_path))
    processor = processor_with(decoders.hang_at_image_3, seconds=4.0)
    with caplog.at_level(logging.WARNING, "ola_jax.data.row_workers"):
        iterate([source], processor=processor, workers=1, max_skipped=1).close()
    waited = [text for text in caplog.messages if text.startswith("waiting for ")]
    assert any(text.endswith("records.json[3]: records.json3.png") for text in waited)


def test_audio_reaches_the_batch_unchanged(tmp_path):
    """In 16 bits between the processes where that is exact, in 32 where it is not."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.wav", rng.integers(-(2**15), 2**15, 9000).astype(np.int16), 16000)
    soundfile.write(tmp_path / "real.wav", rng.uniform(-1, 1, 9000), 16000, "FLOAT")
    soundfile.write(tmp_path / "other.wav", rng.integers(-999, 999, 9000).astype(np.int16), 22050)
    records = [conversation("<speech>\na", "b", audio=f"{name}.wav") for name in ("whole", "real", "other")]
    source = Source(write_json(tmp_path, "r.json", records), str(tmp_path))
    budget = dataclasses.replace(BUDGET, audio_chunks=3)
    both = [list(iterate([source], workers=workers, epochs=1, budget=budget)) for workers in (0, 1)]
    assert sum(len(row) for batch in both[0] for row in batch.record_ids) == 3
    for one, other in zip(*both, strict=True):
        assert one.batch.audio.any()
        assert one.batch.audio.tobytes() == other.batch.audio.tobytes()


def test_a_processor_that_cannot_be_sent_is_an_error(source):
    processor = dataclasses.replace(
        tiny_processor(), decode=lambda function, *arguments: function(*arguments)
    )
    with pytest.raises(OlaError, match="the processor cannot be sent to other processes"):
        iterate([source], processor=processor, workers=1)
