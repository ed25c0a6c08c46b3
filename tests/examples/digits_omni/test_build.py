import json
import shutil

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from examples.digits_omni import build as build_module
from examples.digits_omni.build import build, load_records, split_digits
from examples.digits_omni.drawing import COLOURS
from examples.digits_omni.questions import IMAGE, WORDS, parity
from examples.digits_omni.tasks import AIDS, SPLITS, chance_level, expected_answer, question, tasks_of
from ola_jax.errors import OlaError
from tests.examples.digits_omni.conftest import SCALE

KEYS = {  # of a record of each task, besides id and conversations
    "text": set(),
    "image": {"image"},
    "two_images": {"image"},
    "video": {"video"},
    "audio": {"audio"},
    "image_speech": {"image", "audio_q", "text_q"},
    "video_audio": {"video", "audio"},
    "audio_other": {"audio"},
}
PLACEHOLDERS = {
    "text": "",
    "image": "<image>\n",
    "two_images": "<image>\n<image>\n",
    "video": "<image>\n",
    "audio": "<speech>\n",
    "image_speech": "<image>\n",
    "video_audio": "<speech><image>\n",
    "audio_other": "<speech>\n",
}


def all_records(dataset):
    for split in SPLITS:
        for task in tasks_of(split):
            for record in load_records(dataset, split, task.name):
                yield split, task.name, record


def media_paths(record):
    images = record.get("image", [])
    files = [images] if isinstance(images, str) else list(images)
    return files + [record[key] for key in ("video", "audio", "audio_q") if key in record]


def test_every_kind_of_record_is_in_olas_format(dataset):
    found = set()
    for split, task, record in all_records(dataset):
        found.add((split, task))
        assert set(record) == KEYS[task] | {"id", "conversations"}
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"]
        asked = question(record)
        assert asked.startswith(PLACEHOLDERS[task])
        assert not {"<", ">"} & set(asked.removeprefix(PLACEHOLDERS[task]))
        if task == "image_speech":
            assert record["text_q"] == "<image>\nUser's question in speech: <speech>"
        for file in media_paths(record):
            assert (dataset / file).is_file()
            assert file.startswith(split)
    assert found == {(split, task.name) for split in SPLITS for task in tasks_of(split)}


def test_ids_are_unique(dataset):
    ids = [record["id"] for _, _, record in all_records(dataset)]
    assert len(set(ids)) == len(ids)


def test_answers_follow_from_the_media(dataset, truth):
    for split, task, record in all_records(dataset):
        if task != "text":
            media = [truth[split][file] for file in media_paths(record)]
            assert expected_answer(record) == answer_from_media(task, question(record), media), record


def test_described_records_have_in_words_all_that_the_answer_needs(dataset):
    records = load_records(dataset, "train", "described")
    assert len({question(r).count("\n") for r in records}) > 1  # of one medium, and of two
    for record in records:
        assert set(record) == {"id", "conversations"}
        asked, answer = question(record), expected_answer(record)
        assert not {"<", ">"} & set(asked)
        named = {i for i, word in enumerate(WORDS) if str(i) in asked or word in asked}
        if answer in ("even", "odd"):
            assert {parity(digit) for digit in named} == {answer}
        elif is_account(asked):
            (digit,) = named
            (colour,) = (name for name in COLOURS if name in asked)
            assert answer == account(digit, colour)
        else:
            for part in answer.split(" and "):
                assert part in asked or (part.isdigit() and int(part) in named)


def test_captions_and_transcripts_are_the_ground_truth(dataset, truth):
    for record in load_records(dataset, "train", "captions"):
        picture = truth["train"][record["image"]]
        assert expected_answer(record) == f"{picture['colour']} {picture['digit']}"
    for record in load_records(dataset, "train", "transcripts"):
        assert expected_answer(record) == truth["train"][record["audio"]]["text"]
    heldout = [file.stem for file in (dataset / "heldout").glob("*.json")]
    assert set(heldout).isdisjoint(AIDS)


def answer_from_media(task: str, asked: str, media: list[dict]) -> str:
    """The answer, from the ground truth and the words of the question."""
    asked = asked.lower()
    if task == "two_images":
        if "picture" in asked:
            return str(media[0 if "first" in asked else 1]["digit"])
        first, second = (m["colour"] if "colours" in asked else m["digit"] for m in media)
        return f"{first} and {second}"
    if task == "video_audio":
        clip, speech = media
        assert clip["sound"] == speech
        seen = clip["digits"][1 if "last" in asked else 0]
        if "hear" not in asked:
            return str(seen)
        return f"{seen} and {speech['meaning']}" if "shown" in asked else speech["meaning"]
    if task == "video":
        first, last = media[0]["digits"]
        assert media[0]["sound"] is None
        return str(first) if "first" in asked else str(last) if "last" in asked else f"{first} and {last}"
    if task == "image_speech":
        assert asked == f"<image>\n{media[1]['text'].lower()}"
    digit = int(media[0]["meaning"] if task in ("audio", "audio_other") else media[0]["digit"])
    if "colour" in asked:
        return media[0]["colour"]
    if is_account(asked):
        return account(digit, media[0]["colour"])
    return parity(digit) if "even or odd" in asked else str(digit)


def is_account(asked: str) -> bool:
    return any(wording.lower() in asked.lower() for wording in IMAGE["account"].wordings)


def account(digit: int, colour: str) -> str:
    return f"It is the digit {digit}. It is {parity(digit)}. Its colour is {colour}."


def test_images_have_the_colour_of_the_ground_truth(dataset, truth):
    for item in [m for split in SPLITS for m in truth[split].values() if m["file"].endswith("png")]:
        with Image.open(dataset / item["file"]) as image:
            assert image.mode == "RGB"
            pixels = np.asarray(image).reshape(-1, 3).astype(int)
        distance = {name: np.abs(pixels - rgb).sum(-1).min() for name, rgb in COLOURS.items()}
        assert min(distance, key=distance.get) == item["colour"]


def test_videos_show_two_digits_and_some_have_the_audio_of_a_file(dataset, truth):
    clips = [m for m in truth["heldout"].values() if m["file"].endswith("mp4")]
    assert {clip["sound"] is None for clip in clips} == {True, False}
    for clip in clips:
        with av.open(dataset / clip["file"]) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert len(container.streams.audio) == (clip["sound"] is not None)
        assert np.shape(frames) == (8, 64, 64, 3)
        if clip["sound"]:
            with av.open(dataset / clip["file"]) as container:
                track = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
            samples, rate = soundfile.read(dataset / clip["sound"]["file"], dtype="float32")
            assert rate == 16_000
            assert abs(len(track) - 32_000) <= 1024
            correlation = np.correlate(track, samples, "valid").max()
            norms = np.linalg.norm(samples) * np.linalg.norm(track)
            assert correlation / norms > 0.9


def test_audio_is_speech_that_fits_in_the_demos_chunk(dataset, truth):
    for item in [m for m in truth["train"].values() if m["file"].endswith("flac")]:
        samples, rate = soundfile.read(dataset / item["file"])
        assert rate == 16_000
        assert samples.ndim == 1
        assert 2_000 < len(samples) <= 32_000
        assert np.abs(samples).max() > 0.04


def test_splits_share_no_digit_image_no_voice_and_no_text_question(dataset, truth):
    seen, voices = {}, {}
    for split in SPLITS:
        items = truth[split].values()
        seen[split] = {m["source"] for m in items if m["file"].endswith("png")}
        seen[split] |= {s for m in items if m["file"].endswith("mp4") for s in m["sources"]}
        voices[split] = {m["voice"] for m in items if m["file"].endswith("flac")}
        assert seen[split]
        assert voices[split]
    assert seen["train"].isdisjoint(seen["heldout"])
    assert voices["train"].isdisjoint(voices["heldout"])
    texts = [{question(r) for r in load_records(dataset, split, "text")} for split in SPLITS]
    assert texts[0].isdisjoint(texts[1])


def test_digit_images_are_split_in_the_same_proportion():
    labels = np.repeat(np.arange(10), 60)
    indices = split_digits(labels, np.random.default_rng(0))
    assert sorted(np.concatenate(list(indices.values()))) == list(range(600))
    assert np.bincount(labels[indices["heldout"]]).tolist() == [10] * 10


def test_the_manifest_has_counts_and_chance_levels(dataset):
    splits = json.loads((dataset / "manifest.json").read_text())["splits"]
    for split in SPLITS:
        for task in tasks_of(split):
            records = load_records(dataset, split, task.name)
            assert splits[split][task.name]["records"] == len(records)
            assert splits[split][task.name]["chance"] == pytest.approx(chance_level(records), abs=1e-4)


def test_build_is_deterministic_and_follows_the_seed(dataset, tmp_path):
    again = build(tmp_path / "again", seed=3, scale=SCALE)
    other = build(tmp_path / "other", seed=4, scale=SCALE)
    for path in sorted(dataset.rglob("*")):
        relative = path.relative_to(dataset)
        if path.suffix in (".json", ".png", ".flac"):
            assert path.read_bytes() == (again / relative).read_bytes(), relative
    assert (dataset / "train/image.json").read_text() != (other / "train/image.json").read_text()


def test_complete_build_is_reused(dataset, monkeypatch):
    def fail(*args):
        raise AssertionError("built again")

    monkeypatch.setattr(build_module, "choose_splits", fail)
    assert build(dataset, seed=3, scale=SCALE) == dataset


def test_an_interrupted_build_leaves_nothing_and_can_be_repeated(tmp_path):
    root = tmp_path / "digits"

    def interrupt(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(root, scale=SCALE, progress=interrupt)
    assert not root.exists()
    steps = []
    build(root, scale=SCALE, progress=lambda done, total: steps.append((done, total)))
    assert (root / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    total = steps[-1][1]
    assert steps == [(done, total) for done in range(1, total + 1)]


def test_other_seed_or_foreign_directory_is_refused(dataset, tmp_path):
    with pytest.raises(OlaError, match=r"manifest\.json: seed is 3, expected 5; remove"):
        build(dataset, seed=5, scale=SCALE)
    (tmp_path / "mine").mkdir()
    with pytest.raises(OlaError, match="is not a digits_omni dataset"):
        build(tmp_path / "mine")
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset, damaged, ignore=shutil.ignore_patterns("*.mp4", "*.flac", "*.png"))
    (damaged / "manifest.json").write_text('{"format": ')
    with pytest.raises(OlaError, match="is not a digits_omni dataset"):
        build(damaged, seed=3, scale=SCALE)
