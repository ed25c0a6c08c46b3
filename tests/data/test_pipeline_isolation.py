"""Decoding of the training input in processes: media that hang or crash their decoder cost one record."""

import time

import psutil
import pytest

from ola_jax.config import MediaLimits
from ola_jax.data import Source
from tests.data import decoders
from tests.data.batches import are_equal, iterate, record_ids
from tests.data.made_up import conversation, tiny_processor, write_json, write_records


def children():
    return set(psutil.Process().children())


def test_media_are_decoded_in_processes_to_the_same_batches(source):
    before = children()
    iterator = iterate([source], isolate=True, epochs=2)
    assert all(are_equal(a, b) for a, b in zip(iterator, iterate([source], epochs=2), strict=True))
    assert children() - before
    iterator.close()
    assert children() <= before


@pytest.mark.parametrize(
    ("decode", "kind"),
    [(decoders.hang_at_image_3, "timed out"), (decoders.leave_at_image_3, "decoder crashed")],
)
def test_media_that_hang_or_crash_their_decoder_are_skipped(tmp_path, monkeypatch, decode, kind):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    monkeypatch.setattr("ola_jax.data.processor.decode_images", decode)
    processor = tiny_processor(media=MediaLimits(decode_seconds=2.0))
    iterator = iterate([source], processor=processor, isolate=True, epochs=1, max_skipped=1)
    batches = list(iterator)
    iterator.close()
    assert len(record_ids(batches)) == 11
    assert batches[-1].skipped == {kind: 1}
    assert [(skip.index, skip.kind) for skip in iterator.skips] == [(3, kind)]
    assert "record 'r3'" in iterator.skips[0].reason


def test_text_alone_starts_no_process(tmp_path):
    source = Source(write_json(tmp_path, "r.json", [conversation("a", "b")] * 4))
    before = children()
    assert len(list(iterate([source], isolate=True, epochs=1))) > 0
    assert children() <= before


def test_close_does_not_wait_for_media_that_hang(tmp_path, monkeypatch, caplog):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    monkeypatch.setattr("ola_jax.data.processor.decode_images", decoders.hang_if_armed)
    processor = tiny_processor(media=MediaLimits(decode_seconds=60.0))
    iterator = iterate([source], processor=processor, isolate=True, max_skipped=12)
    next(iterator)
    (tmp_path / "armed").touch()
    for _ in range(2):  # of the batches that are prepared in advance: makes room for more
        next(iterator)
    end = time.monotonic() + 60
    while not (tmp_path / "hanging").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    began = time.monotonic()
    iterator.close()
    assert time.monotonic() - began < 20
    assert not iterator.skips
    assert not caplog.messages
