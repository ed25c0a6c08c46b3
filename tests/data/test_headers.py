"""Sizes by headers: those of decoding, found without it; media with a wrong header leave a hole in a row."""

import dataclasses
import io
import shutil
import struct

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from ola_jax.config import MediaLimits, PixelLimits
from ola_jax.data import Source
from ola_jax.data.checking import check_source
from ola_jax.data.image import enlarge, frame_size, image_views, video_frame, view_sizes
from ola_jax.data.measure import by_headers, measure
from ola_jax.errors import OlaError
from tests.data.batches import BUDGET, are_equal, iterate, record_ids
from tests.data.clips import display_matrix, tone, write_tracks, write_video
from tests.data.made_up import conversation, tiny_processor, write_json, write_records
from tests.data.mixed_set import write_mixed_set

AUDIO_BUDGET = dataclasses.replace(BUDGET, tokens=400, windows=4, audio_chunks=8)


def sizes_of(record, folder, **media):
    """The size of a record by decoding, and by headers."""
    processor = tiny_processor(media=MediaLimits(**media))
    return [measure(each, record, str(folder)) for each in (processor, by_headers(processor))]


def blank_packets(path, first):
    """Overwrites the packets of a video from this one on with zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for start, size in places[first:]:
        data[start + 4 : start + size] = bytes(size - 4)
    path.write_bytes(data)


def image_record(*names):
    return conversation("<image>\n" * len(names) + "a", "yes", image=list(names))


@pytest.mark.parametrize("smallest", [0, 9])
def test_sizes_of_views_and_frames_are_those_of_their_pixels(smallest):
    limits = PixelLimits(8, 16, 4, 4, 8, 4, max_frames=4, smallest_image_side=smallest)
    for width, height in [(1, 1), (3, 7), (8, 8), (16, 16), (17, 16), (13, 20), (90, 5), (64, 11), (5, 49)]:
        image = Image.new("RGB", (width, height))
        views = image_views(enlarge(image, smallest), limits)
        assert view_sizes(image.size, limits) == [view.size for view in views]
        high_only = dataclasses.replace(limits, high_view_only=True)
        assert view_sizes(image.size, high_only) == [views[1].size]
        if min(size := frame_size(image.size, limits)):
            assert size == video_frame(image, limits).size


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
def test_images_of_any_format_have_the_size_of_decoding(tmp_path, form, turned):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif.tobytes()} if form in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.new("RGB", (18, 10), (9, 5, 1)).save(tmp_path / "i", form, **options)
    decoded, found = sizes_of(image_record("i", "i"), tmp_path, exif_orientation=turned)
    assert found == decoded
    (first, *_) = {size.patches for size in (decoded,)}
    assert len(first) == 4


def test_pixels_are_not_decoded_for_the_size(tmp_path):
    for form in ("JPEG", "PNG"):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(file, form)
        (tmp_path / "i").write_bytes(file.getvalue()[:-400])
        record = image_record("i")
        with pytest.raises(OlaError, match="cannot be read as an image"):
            measure(tiny_processor(), record, str(tmp_path))
        assert len(measure(by_headers(tiny_processor()), record, str(tmp_path)).patches) == 2


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_U8"),
        ("WAV", "DOUBLE"),
        ("WAV", "ULAW"),
        ("WAV", "MS_ADPCM"),
        ("WAVEX", "PCM_24"),
        ("FLAC", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_audio_of_any_format_has_the_chunks_of_decoding(tmp_path, form, subtype, rate):
    chunk = tiny_processor().config.chunk_samples / 16_000  # seconds
    for number, seconds in enumerate((0.3 * chunk, chunk, chunk + 1 / rate, 2.4 * chunk)):
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), number % 2 + 1))
        soundfile.write(tmp_path / "a", samples, rate, subtype, format=form)
        decoded, found = sizes_of(conversation("<speech>\na", "yes", audio="a"), tmp_path)
        assert found == decoded
        assert found.counts["audio_chunks"] >= 1


def test_audio_is_not_decoded_for_the_size(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(9000, np.nan), 16_000, "FLOAT")
    record = conversation("<speech>\na", "yes", audio="a.wav")
    with pytest.raises(OlaError, match="not finite"):
        measure(tiny_processor(), record, str(tmp_path))
    assert measure(by_headers(tiny_processor()), record, str(tmp_path)).counts["audio_chunks"] == 2


def test_a_wav_file_whose_header_claims_too_much_has_the_chunks_that_are_there(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(9000), 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for claimed in (10 * len(data), 2**32 - 1, 0, 3):
        data[40:44] = struct.pack("<I", claimed)
        (tmp_path / "a.wav").write_bytes(data)
        decoded, found = sizes_of(conversation("<speech>\na", "yes", audio="a.wav"), tmp_path)
        assert found == decoded


def test_videos_have_the_frames_of_decoding(tmp_path):
    write_video(tmp_path / "long.mp4", 30)
    write_video(tmp_path / "short.mp4", 5, sound_seconds=0.5)
    write_video(tmp_path / "long.mkv", 30)  # whose header has no number of frames
    write_video(tmp_path / "wide.mp4", 12, size=(96, 32))
    turned = display_matrix((tmp_path / "wide.mp4").read_bytes(), (0, 1, -1, 0))
    (tmp_path / "turned.mp4").write_bytes(turned)
    frames = [Image.new("RGB", (20, 12), (number, 0, 0)) for number in range(6)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "long.mkv").read_bytes()[:-200])
    for name in ("long.mp4", "short.mp4", "long.mkv", "wide.mp4", "turned.mp4", "moving.gif", "cut.mp4"):
        decoded, found = sizes_of(conversation("<image>\na", "yes", video=name), tmp_path)
        assert found == decoded
        assert len(found.patches) == 4
    upright, sideways = (
        sizes_of(conversation("<image>\na", "yes", video=name), tmp_path)[1].counts["tokens"]
        for name in ("wide.mp4", "turned.mp4")
    )
    assert upright != sideways  # rows of patches end with a token


def test_a_long_video_is_not_decoded_for_the_size(tmp_path):
    write_video(tmp_path / "v.mp4", 60)
    blank_packets(tmp_path / "v.mp4", 5)
    record = conversation("<image>\na", "b", video="v.mp4")
    assert len(measure(by_headers(tiny_processor()), record, str(tmp_path)).patches) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "missing.png"}, "no such file"),
        ({"image": "text.png"}, "not an image"),
        ({"image": "large.png"}, "at most 900 are decoded"),
        ({"video": "text.png"}, "is a single image"),
        ({"video": "large.png"}, "is a single image"),
        ({"video": ["small.png", "large.png"]}, "at most 900 are decoded"),
        ({"audio": "text.png"}, "has no audio|cannot be read as audio"),
        ({"audio": "empty.wav"}, "has no samples"),
        ({"audio": "long.wav"}, "longer than 1 seconds"),
        ({"audio": {"patch": "long.wav", "start_num": 0, "size": 10**6}}, "only"),
    ],
)
def test_media_that_headers_show_to_be_bad_fail_as_decoding_fails(tmp_path, change, message):
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_bytes(b"not an image")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(17_000), 16_000)
    processor = tiny_processor(media=MediaLimits(image_pixels=900, audio_seconds=1.0))
    record = conversation(("<speech>" if "audio" in change else "<image>") + "\na", "b", **change)
    reasons = []
    for each in (processor, by_headers(processor)):
        with pytest.raises(OlaError, match=message) as raised:
            measure(each, record, str(tmp_path))
        reasons.append((type(raised.value), str(raised.value)))
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (0, True), (2, False), (2, True)])
def test_batches_are_the_same_whichever_way_the_sizes_were_found(tmp_path, workers, cache):
    source = Source(write_mixed_set(tmp_path), str(tmp_path))
    options = {"budget": AUDIO_BUDGET, "max_skipped": 3, "epochs": 2}
    by_header = iterate([source], workers=workers, cache=cache, **options)
    batches = list(by_header)
    by_header.close()
    checked = check_source(source, tiny_processor())
    assert checked.index_path.exists()
    decoded = iterate([source], **options)
    assert decoded.identity == by_header.identity
    assert {skip.index for skip in decoded.skips} == {3, 7, 11}
    assert all(are_equal(a, b) for a, b in zip(batches, decoded, strict=True))


def damaged_set(folder):
    """Twelve records; the bodies of two are damaged behind good headers. Returns their source."""
    path = write_records(folder, 12)
    rng = np.random.default_rng(0)
    for number in (3, 9):
        file = folder / f"records.json{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(file, "JPEG")
        file.write_bytes(file.read_bytes()[:-300])
    return Source(path, str(folder))


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("allowed", [{"max_skipped": 2}, {"max_bad_fraction": 2 / 12}])
def test_damaged_media_count_the_same_whichever_way_the_sizes_were_found(tmp_path, checked, allowed):
    source = damaged_set(tmp_path)
    if checked:
        check_source(source, tiny_processor())
    iterator = iterate([source], epochs=2, **allowed)
    assert len(iterator.skips) == (2 if checked else 0)
    batches = list(iterator)
    assert len(record_ids(batches)) == 2 * 10
    assert batches[-1].skipped == {"unreadable media": 2}
    assert {skip.index for skip in iterator.skips} == {3, 9}
    with pytest.raises(OlaError, match="2 bad records, at most 1 may be skipped"):
        list(iterate([source], epochs=1, max_skipped=1))


def test_an_image_replaced_after_it_was_measured_leaves_a_hole_with_a_reason(tmp_path):
    source = Source(write_records(tmp_path, 12), str(tmp_path))
    iterator = iterate([source], epochs=1, max_skipped=1)
    Image.new("RGB", (30, 12)).save(tmp_path / "records.json6.png")
    assert len(record_ids(iterator)) == 11
    (skip,) = iterator.skips
    assert (skip.index, skip.kind) == (6, "changed record")
    assert "its media changed, or are damaged behind the header; `ola data check` writes" in skip.reason


@pytest.mark.parametrize("kept", ["flac", "video"])
def test_media_with_less_in_them_than_their_header_says_leave_a_hole(tmp_path, kept):
    if kept == "flac":
        chunk = tiny_processor().config.chunk_samples
        wave = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * chunk)
        soundfile.write(tmp_path / "a.flac", wave, 16_000)
        data = (tmp_path / "a.flac").read_bytes()
        (tmp_path / "a.flac").write_bytes(data[: len(data) // 3])
        record = conversation("<speech>\na", "yes", audio="a.flac")
    else:
        write_video(tmp_path / "v.mp4", 60)
        blank_packets(tmp_path / "v.mp4", 2)
        record = conversation("<image>\na", "yes", video="v.mp4")
    path = write_json(tmp_path, "r.json", [record, conversation("a", "b", id="good")])
    iterator = iterate([Source(path, str(tmp_path))], budget=AUDIO_BUDGET, epochs=1, max_skipped=1)
    assert [record.id for record in record_ids(iterator)] == ["good"]
    ((kind, reason),) = {(skip.kind, skip.reason) for skip in iterator.skips}
    assert kind in ("changed record", "unreadable media")
    assert "in its index: it or its media changed, or are damaged" in reason or "cannot be read" in reason


def test_a_run_keeps_the_index_that_it_began_with(tmp_path):
    """Although a check of its records has found damaged media since, and has written another."""
    source = damaged_set(tmp_path)
    options = {"index_folder": tmp_path / "run", "max_skipped": 2, "epochs": 1}
    begun = iterate([source], **options)
    next(begun)
    state = begun.get_state()
    check_source(source, tiny_processor())
    resumed = iterate([source], **options)
    resumed.set_state(state)
    assert all(are_equal(a, b) for a, b in zip(begun, resumed, strict=True))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OlaError, match="sizes of records"):
        iterate([source], **options).set_state(state)


def test_tracks_of_containers_are_decoded_for_their_length(tmp_path):
    write_tracks(tmp_path / "a.m4a", [tone(44_100, 0.7)], "mp4", "aac", [44_100])
    decoded, found = sizes_of(conversation("<speech>\na", "yes", audio="a.m4a"), tmp_path)
    assert found == decoded
