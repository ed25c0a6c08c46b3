"""Media in the samples of the processor: frames, sound tracks, patch files, chunks of audio."""

import numpy as np
import soundfile

from ola_jax.batch import TEXT
from tests.data.clips import write_video
from tests.data.golden_processor import golden_processor
from tests.data.made_up import TINY, conversation, tiny_processor
from tests.golden import VISIBLE

ROOT = str(VISIBLE)


def test_repeated_frames_are_encoded_once():
    sample = golden_processor("infer").sample(conversation("<image>\nx", video="inputs/clip.mp4"), ROOT)
    assert len(sample.images) == 20
    features = sample.source[sample.source != TEXT]
    per_frame = len(sample.images[0].patches) // 4
    shown = features[features < 20 * per_frame] // per_frame
    assert len(shown) == 64 * per_frame
    assert (np.diff(shown) >= 0).all()
    assert sample.counts["video"] == len(features)


def test_the_audio_of_a_video_is_its_own_sound_track(tmp_path):
    processor = golden_processor("infer")
    own = processor.sample(conversation("<speech><image>\nx", video="inputs/clip.mp4"), ROOT)
    assert own.audio.shape == (1, 480_000)
    assert own.audio.any()
    assert own.counts["audio"] == 153
    write_video(tmp_path / "silent.mp4", frames=3)
    silent = processor.sample(conversation("<speech><image>\nx", video="silent.mp4"), str(tmp_path))
    without_mark = processor.sample(conversation("<image>\nx", video="silent.mp4"), str(tmp_path))
    assert silent.audio.shape == (0, 480_000)
    np.testing.assert_array_equal(silent.prompt_ids, without_mark.prompt_ids)
    np.testing.assert_array_equal(silent.source, without_mark.source)


def test_media_in_patch_files_equal_those_in_files(tmp_path):
    names = ["img_rgb.png", "img_rgba.png", "a_stereo.wav", "a_short.wav"]
    parts = [(VISIBLE / "inputs" / name).read_bytes() for name in names]
    (tmp_path / "patch").write_bytes(b"".join(parts))
    place = {}
    for number, name in enumerate(names):
        start = sum(map(len, parts[:number]))
        place[name] = {"patch": "patch", "start_num": start, "size": len(parts[number])}
    files = {name: str(VISIBLE / "inputs" / name) for name in names}
    for keys in (("image", "img_rgb.png", "<image>\nx"), ("audio", "a_stereo.wav", "<speech>\nx")):
        key, name, text = keys
        packed = golden_processor()([conversation(text, "ok", **{key: place[name]})], str(tmp_path))
        plain = golden_processor()([conversation(text, "ok", **{key: files[name]})])
        for field in plain.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(packed, field), getattr(plain, field))
    frames = {"patch": "patch", "start_num": 0, "size": [len(parts[0])]}
    sample = golden_processor().sample(conversation("<image>\nx", "ok", video=frames), str(tmp_path))
    assert len(sample.images) == 1
    joined = place["a_stereo.wav"] | {"size": [len(parts[2]), len(parts[3])]}
    sample = golden_processor().sample(conversation("<speech>\nx", "ok", audio=joined), str(tmp_path))
    assert np.flatnonzero(sample.audio)[-1] > 64_000  # the second follows the four seconds of the first


def test_a_whole_video_in_a_patch_file_is_decoded(tmp_path):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "patch").write_bytes(b"..." + data)
    ref = {"patch": "patch", "start_num": 3, "size": [len(data)]}
    packed = golden_processor().sample(conversation("<image>\nx", "ok", video=ref), str(tmp_path))
    plain = golden_processor().sample(conversation("<image>\nx", "ok", video="inputs/clip.mp4"), ROOT)
    assert all((a.patches == b.patches).all() for a, b in zip(packed.images, plain.images, strict=True))


def test_long_audio_is_not_cut(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(27 * 6400, 0.25), 16_000)
    sample = tiny_processor().sample(conversation("<speech>\nx", "ok", audio="long.wav"), str(tmp_path))
    assert sample.audio.shape == (27, TINY.chunk_samples)
    assert sample.audio.all()


def test_two_images_and_audio_have_their_placeholders():
    images = ["inputs/img_tiny.png", "inputs/img_gray.png"]
    for keys, text in (
        ({"audio": "inputs/a_short.wav"}, "<image>\n<image>\n<speech>\nx"),
        ({"audio_q": "inputs/a_short.wav"}, "<image>\r\n<image>\r\nAsked: <speech>\r\n"),
    ):
        record = conversation(text, "a", image=images, **keys)
        sample = golden_processor().sample(record, ROOT, training=True)
        assert sorted(i for i in sample.prompt_ids.tolist() if i < 0) == [-300, -300, -200]
        assert len(sample.images) == 4
        assert sample.counts["audio"] == 153
