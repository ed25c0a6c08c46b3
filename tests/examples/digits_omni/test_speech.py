import collections

import numpy as np
import pytest
import soundfile

from examples.digits_omni.questions import SPOKEN, WORDS
from examples.digits_omni.render_speech import LONGEST as LONGEST_SECONDS
from examples.digits_omni.speech import LONGEST, PACK, augment, load_pack, vary

SPLITS = ("train", "heldout", "other")


@pytest.fixture(scope="module")
def pack():
    return load_pack()


def test_recordings_are_16_khz_mono_16_bit_and_short():
    for path in sorted(PACK.glob("*/*.flac")):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16"), path
    for recording in load_pack():
        assert 0.15 < len(recording.samples) / 16_000 <= LONGEST_SECONDS[recording.kind], recording.file


def test_manifest_lists_exactly_the_files_of_the_pack(pack):
    assert sorted(r.file for r in pack) == sorted(str(p.relative_to(PACK)) for p in PACK.glob("*/*.flac"))


def test_pack_is_small():
    assert sum(path.stat().st_size for path in PACK.rglob("*")) < 5e6


def test_recordings_are_loud_and_trimmed(pack):
    for recording in pack:
        assert np.abs(recording.samples).max() == pytest.approx(0.5, abs=1e-3), recording.file
        loudness = np.convolve(np.abs(recording.samples), np.full(160, 1 / 160), "same")  # of 10 ms
        for end in (loudness[:400], loudness[-400:]):  # no 25 ms that are 40 dB below the loudest
            assert end.max() > 0.0099 * loudness.max(), recording.file


def test_heldout_voices_are_not_in_training(pack):
    voices = {split: {r.voice for r in pack if r.split == split} for split in ("train", "heldout")}
    assert voices["train"].isdisjoint(voices["heldout"])
    assert len(voices["train"]) >= 24
    accents = {split: {r.accent for r in pack if r.split == split} for split in ("train", "heldout")}
    assert accents["heldout"] <= accents["train"]


def test_every_voice_says_every_digit_and_the_questions_are_asked_in_every_wording(pack):
    said = collections.defaultdict(dict)
    for recording in pack:
        if recording.kind == "digit":
            said[recording.split, recording.voice][recording.meaning] = recording.text
    assert all(words == {str(i): word for i, word in enumerate(WORDS)} for words in said.values())
    for split in ("train", "heldout"):
        asked = {(r.meaning, r.text) for r in pack if r.split == split and r.kind == "question"}
        assert asked == {(topic, text) for topic, texts in SPOKEN.items() for text in texts}


def test_no_two_recordings_are_the_same(pack):
    assert len({recording.samples.tobytes() for recording in pack}) == len(pack)


def test_the_other_kind_of_voice_is_in_neither_split(pack):
    kinds = {split: {r.synthesizer for r in pack if r.split == split} for split in SPLITS}
    assert kinds["other"].isdisjoint(kinds["train"] | kinds["heldout"])


@pytest.mark.parametrize("change", [vary, augment])
def test_variations_differ_and_fit_in_the_demos_chunk(pack, change):
    longest = max(pack, key=lambda r: len(r.samples)).samples
    for seed in range(20):
        samples = change(longest, np.random.default_rng(seed))
        assert samples.dtype == np.float32
        assert len(samples) <= LONGEST
        assert 0.04 < np.abs(samples).max() <= 1
    a, again, b = (change(longest, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(a, again)
    assert len(a) != len(b)
