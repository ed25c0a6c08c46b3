import dataclasses

import numpy as np
import pytest
import soundfile

from ola_jax.batch import IGNORE, TEXT, Budget
from ola_jax.checkpoint import save
from ola_jax.config import ProcessorConfig
from ola_jax.data import Processor, prompt_record
from ola_jax.data.failures import TooLargeError
from ola_jax.data.media import BadMediaError
from ola_jax.errors import OlaError
from tests.data.clips import write_video
from tests.data.golden_processor import golden_processor
from tests.data.made_up import TINY, tiny_processor
from tests.golden import VISIBLE, arrays, index

TRAIN = [c for c in index()["cases"] if c["id"].startswith(("train_", "merge_"))]
ROOT = str(VISIBLE)


@pytest.mark.parametrize("case", TRAIN, ids=lambda c: c["id"])
def test_training_tokens_and_merged_labels_are_the_originals(case):
    override = case.get("config_override", {}).get("tokenizer_model_max_length")
    changes = {"max_length": override} if override else {}
    processor = golden_processor("train", **changes)
    expected = arrays(case["file"])
    batch = processor(case["samples"], ROOT)
    for row, record in enumerate(case["samples"]):
        there = expected["merged_attention_mask"][row].astype(bool)  # padded left or right
        length = int(there.sum())
        assert (batch.segments[row] == (np.arange(batch.segments.shape[1]) < length)).all()
        np.testing.assert_array_equal(
            batch.positions[row, :length], expected["merged_position_ids"][row][there]
        )
        np.testing.assert_array_equal(
            batch.targets[row, : length - 1], expected["merged_labels"][row][there][1:]
        )
        assert (batch.targets[row, length - 1 :] == IGNORE).all()
        sample = processor.sample(record, ROOT)
        if "input_ids" in expected:
            ids = expected["input_ids"][row][expected["attention_mask_in"][row].astype(bool)]
            np.testing.assert_array_equal(sample.prompt_ids, ids)
            text = ids[ids >= 0]
            np.testing.assert_array_equal(sample.tokens[sample.source == TEXT], text)
        assert sum(sample.counts.values()) == length


def infer_record(case):
    """The record of an inference case: of its command line, or of its prompt and files."""
    if "cli" in case:
        cli = case["cli"]
        images = [cli["image"]] if "image" in cli else []
        return prompt_record(cli.get("text", ""), images, cli.get("video"), cli.get("audio"))
    message = case["prompt"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    files = case.get("files", [])
    record = {"conversations": [{"from": "human", "value": message}]}
    if images := [f for f in files if f.endswith((".png", ".jpg"))]:
        record["image"] = images
    if video := [f for f in files if f.endswith(".mp4")]:
        record["video"] = video[0]
    if audio := [f for f in files if f.endswith(".wav")]:
        record["audio_q" if images else "audio"] = audio[0]
    return record


INFER = [c for c in index()["cases"] if c["id"].startswith("infer_")]


@pytest.mark.parametrize("case", [c for c in INFER if "file" in c], ids=lambda c: c["id"])
def test_prompt_tokens_and_merged_length_are_the_originals(case):
    expected = arrays(case["file"])
    sample = golden_processor("infer").sample(infer_record(case), ROOT)
    np.testing.assert_array_equal(sample.prompt_ids, expected["input_ids"][0])
    assert (sample.targets == IGNORE).all()
    if "images_shape" not in case:  # those saw only the first frame of the video
        assert len(sample.tokens) == expected["merged_len"]


@pytest.mark.parametrize("case", [c for c in INFER if "upstream_error" in c], ids=lambda c: c["id"])
def test_prompts_on_which_the_original_crashes_are_the_mended_ones(case):
    mended = next(c for c in INFER if c["id"] == case["id"].removesuffix("_literal"))
    processor = golden_processor("infer")
    sample = processor.sample(infer_record(case), ROOT)
    np.testing.assert_array_equal(sample.prompt_ids, arrays(mended["file"])["input_ids"][0])


def training(text, **keys):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "ok"}]
    return {"id": "r1", "conversations": turns, **keys}


def prompt(text, **keys):
    return {"id": "r1", "conversations": [{"from": "human", "value": text}], **keys}


def test_repeated_frames_are_encoded_once():
    sample = golden_processor("infer").sample(prompt("<image>\nx", video="inputs/clip.mp4"), ROOT)
    assert len(sample.images) == 20
    features = sample.source[sample.source != TEXT]
    per_frame = len(sample.images[0].patches) // 4
    shown = features[features < 20 * per_frame] // per_frame
    assert len(shown) == 64 * per_frame
    assert (np.diff(shown) >= 0).all()
    assert sample.counts["video"] == len(features)


def test_a_video_is_heard_through_its_own_sound_track(tmp_path):
    processor = golden_processor("infer")
    own = processor.sample(prompt("<speech><image>\nx", video="inputs/clip.mp4"), ROOT)
    assert own.audio.shape == (1, 480_000)
    assert own.audio.any()
    assert own.counts["audio"] == 153
    write_video(tmp_path / "silent.mp4", frames=3)
    silent = processor.sample(prompt("<speech><image>\nx", video="silent.mp4"), str(tmp_path))
    unheard = processor.sample(prompt("<image>\nx", video="silent.mp4"), str(tmp_path))
    assert silent.audio.shape == (0, 480_000)
    np.testing.assert_array_equal(silent.prompt_ids, unheard.prompt_ids)
    np.testing.assert_array_equal(silent.source, unheard.source)


def test_media_in_patch_files_are_the_same_as_in_files(tmp_path):
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
        packed = golden_processor()([training(text, **{key: place[name]})], str(tmp_path))
        plain = golden_processor()([training(text, **{key: files[name]})])
        for field in plain.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(packed, field), getattr(plain, field))
    frames = {"patch": "patch", "start_num": 0, "size": [len(parts[0])] * 1}
    sample = golden_processor().sample(training("<image>\nx", video=frames), str(tmp_path))
    assert len(sample.images) == 1
    joined = place["a_stereo.wav"] | {"size": [len(parts[2]), len(parts[3])]}
    sample = golden_processor().sample(training("<speech>\nx", audio=joined), str(tmp_path))
    assert np.flatnonzero(sample.audio)[-1] > 64_000  # the second follows the four seconds of the first


def test_a_whole_video_in_a_patch_file_is_decoded(tmp_path):
    data = (VISIBLE / "inputs" / "clip.mp4").read_bytes()
    (tmp_path / "patch").write_bytes(b"..." + data)
    ref = {"patch": "patch", "start_num": 3, "size": [len(data)]}
    packed = golden_processor().sample(training("<image>\nx", video=ref), str(tmp_path))
    plain = golden_processor().sample(training("<image>\nx", video="inputs/clip.mp4"), ROOT)
    assert all((a.patches == b.patches).all() for a, b in zip(packed.images, plain.images, strict=True))


def test_long_audio_is_kept_whole(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(27 * 6400, 0.25), 16_000)
    sample = tiny_processor().sample(training("<speech>\nx", audio="long.wav"), str(tmp_path))
    assert sample.audio.shape == (27, TINY.chunk_samples)
    assert sample.audio.all()


def test_rows_keep_the_order_of_the_records_and_a_budget_fixes_the_sizes():
    processor = golden_processor()
    records = [training("second?"), training("<image>\nx", image="inputs/img_tiny.png"), training("third")]
    free = processor(records, ROOT)
    fixed = processor(records, ROOT, Budget(512, 2, 600, 1))
    assert fixed.tokens.shape == (3, 512)
    assert fixed.patches.shape == (3, 2, 600, 768)
    assert fixed.audio.shape == (3, 1, 480_000)
    length = free.tokens.shape[1]
    for field in ("tokens", "positions", "segments", "targets"):
        np.testing.assert_array_equal(getattr(free, field), getattr(fixed, field)[:, :length])
    with pytest.raises(OlaError, match=r"record 'r1': .* tokens, a row holds 8; raise the budget"):
        processor(records, ROOT, Budget(8))


def test_batches_have_no_more_than_they_need():
    batch = golden_processor()([training("only text")])
    assert batch.tokens.shape == (1, 64)
    assert batch.patches.shape[1] == batch.audio.shape[1] == 0
    with pytest.raises(OlaError, match="no records"):
        golden_processor()([])


def test_the_processor_of_a_checkpoint(tmp_path):
    expected = golden_processor("infer")
    params = {"any": np.zeros(1, np.float32)}
    save(tmp_path, expected.config, ProcessorConfig(max_length=99), params, VISIBLE / "hf", {})
    processor = Processor.from_pretrained(tmp_path, preset="infer")
    assert processor.config == expected.config
    assert processor.processor_config.max_length == 99
    assert processor.limits.video_multiple == 64
    assert Processor.from_pretrained(tmp_path).limits.video_multiple == 32
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(OlaError, match="tokenizer: not a tokenizer that can be read"):
        Processor.from_pretrained(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(OlaError, match=r"tokenizer: no tokenizer\.json"):
        Processor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (training("<image>\nx", image="none.png"), r"record 'r1': .*none\.png: no such file"),
        (
            training("<image>\nx", image="a_short.wav"),
            r"record 'r1': .*a_short\.wav: cannot be read as an image",
        ),
        (training("<image>\nx", video="img_rgb.png"), r"img_rgb\.png: is a single image, not a video"),
        (
            training("<speech>\nx", audio="img_rgb.png"),
            r"img_rgb\.png: cannot be read as sound|no sound track",
        ),
        (training("x", image="img_rgb.png"), "0 '<image>' placeholders for 1 of image"),
        (training("<image>\n<image>\nx", image="img_rgb.png"), "2 '<image>' placeholders for 1 of image"),
        (training("<image>\nx", video=["img_rgb.png", "vframe2.png"]), "the frames differ in size"),
        (prompt("", id=None), "^the prompt is empty"),
        ({"id": 7}, "record 7: 'conversations'"),
        ("text", "expected a JSON object, found str"),
    ],
)
def test_bad_records_are_errors_of_one_line(record, message):
    processor = golden_processor()
    root = str(VISIBLE / "inputs")
    with pytest.raises(OlaError, match=message) as caught:
        processor.sample(record, root)
    assert "\n" not in str(caught.value)


def test_a_prompt_is_never_cut_short():
    with pytest.raises(OlaError, match=r"the prompt has \d+ tokens, at most 16 are allowed"):
        golden_processor(max_length=16).sample(prompt("hello"))
    assert len(golden_processor(max_length=16).sample(training("hello")).tokens) == 16


def conversation(*messages, **keys):
    who = ("human", "gpt")
    return {"conversations": [{"from": who[i % 2], "value": m} for i, m in enumerate(messages)], **keys}


def test_in_training_answers_before_a_last_question_are_learned():
    processor = golden_processor()
    asked = conversation("a", "the answer", "b")
    assert (processor.sample(asked).targets == IGNORE).all()
    sample = processor.sample(asked, training=True)
    answered = processor.sample(conversation("a", "the answer"), training=True)
    length = len(answered.tokens)
    np.testing.assert_array_equal(sample.tokens[:length], answered.tokens)
    np.testing.assert_array_equal(sample.targets[: length - 1], answered.targets[: length - 1])
    end, newline = processor.tokenizer.encode("<|im_end|>\n").ids
    last = sample.targets[length:]  # the marks of the last turn are learned, its words are not
    assert last[-3:].tolist() == [end, newline, IGNORE]
    assert (last[:-3] == IGNORE).all()


@pytest.mark.parametrize(
    "asked",
    [
        conversation("<speech>\nx", "the answer", "b", audio="inputs/a_short.wav"),
        conversation("X", "the answer", "b", audio_q="inputs/a_short.wav", text_q="Asked: <speech>"),
        conversation("<image>\nx", "the answer", "b", image="inputs/img_tiny.png"),
        conversation("<speech><image>\nx", "the answer", "b", video="inputs/clip.mp4"),
    ],
)
def test_in_training_so_are_those_about_media(asked):
    sample = golden_processor().sample(asked, ROOT, training=True)
    answer = golden_processor().tokenizer.encode("the answer", add_special_tokens=False).ids
    learned = sample.targets[sample.targets != IGNORE].tolist()
    assert any(learned[i : i + len(answer)] == answer for i in range(len(learned)))


def no_decoder(*_):
    raise AssertionError("media were decoded")


def room(record):
    """The least max_length at which a token of an answer is left."""
    whole = golden_processor().sample(record, ROOT, training=True)
    answer = golden_processor().tokenizer.encode("the answer", add_special_tokens=False).ids[0]
    return int(np.flatnonzero(whole.targets == answer)[0]) + 2


LONG = [
    conversation("x" * 40, "the answer"),
    conversation("<image>\n<image>\nx", "the answer", image=["inputs/img_tiny.png", "inputs/img_rgb.png"]),
    conversation("<image>\nx", "the answer", video="inputs/clip.mp4"),
    conversation("<speech>\nx", "the answer", audio="inputs/a_short.wav"),
    conversation("<speech><image>\nx", "the answer", video="inputs/clip.mp4"),
    conversation(
        "<speech><image>\nx", "the answer", "y", video="inputs/clip.mp4", audio="inputs/a_short.wav"
    ),
    conversation("<image>\nx", "the answer", "<image>\ny", "b", image=["inputs/img_tiny.png"] * 2),
]


@pytest.mark.parametrize("record", LONG)
def test_media_that_leave_no_token_of_an_answer_are_too_large(record):
    least = room(record)
    sample = golden_processor(max_length=least).sample(record, ROOT, training=True)
    assert len(sample.tokens) == least
    with pytest.raises(TooLargeError, match=f"before the first answer, max_length is {least - 1}: no token"):
        golden_processor(max_length=least - 1).sample(record, ROOT, training=True)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_what_is_too_large_by_its_text_or_its_images_is_not_decoded(monkeypatch, number):
    record = LONG[number]
    least = room(record)
    monkeypatch.setattr("ola_jax.data.processor.Processor._images", no_decoder)
    monkeypatch.setattr("ola_jax.data.processor.Processor._audio", no_decoder)
    limit = {0: least - 1, 1: least - 30, 3: 20}[number]  # images may be turned; sounds are not looked at
    with pytest.raises(TooLargeError, match=f"max_length is {limit}"):
        golden_processor(max_length=limit).sample(record, ROOT, training=True)


def test_a_video_that_is_too_large_by_its_frames_is_not_heard(monkeypatch):
    frames = room(LONG[2])
    monkeypatch.setattr("ola_jax.data.processor.Processor._audio", no_decoder)
    with pytest.raises(TooLargeError):
        golden_processor(max_length=frames - 1).sample(LONG[4], ROOT, training=True)


def test_a_silent_video_needs_no_room_for_its_mark(tmp_path):
    write_video(tmp_path / "silent.mp4", frames=3)
    video = str(tmp_path / "silent.mp4")
    least = room(conversation("<image>\nx", "the answer", video=video))
    record = conversation("<speech><image>\nx", "the answer", video=video)
    golden_processor(max_length=least).sample(record, training=True)
    with pytest.raises(TooLargeError):
        golden_processor(max_length=least - 1).sample(record, training=True)


def test_marks_may_be_plain_text():
    processor = golden_processor()
    record = conversation("What is <image>?", "the <video> and <speech> marks")
    with pytest.raises(OlaError, match="'<image>' in the text and no image"):
        processor.sample(record, training=True)
    sample = processor.sample(record, training=True, marks_are_text=True)
    assert (sample.source == TEXT).all()
    assert "What is <image>?" in processor.tokenizer.decode(sample.tokens.tolist())
    seen = conversation("<image>\nIs it <speech>?", "a", image="inputs/img_tiny.png")
    sample = processor.sample(seen, ROOT, training=True, marks_are_text=True)
    assert sample.counts["image"] > 0
    assert "Is it <speech>?" in processor.tokenizer.decode(sample.tokens[sample.source == TEXT].tolist())


def test_two_images_and_audio_are_placed():
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


class Failing(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (TypeError("not\nthis"), "TypeError: not"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (Failing("x" * 9999), "Failing: xxx"),
        (BaseException("a panic"), "BaseException: a panic"),
        (StopIteration(), "StopIteration"),
    ],
)
@pytest.mark.parametrize("reader", ["_images", "_audio"])
def test_whatever_a_reader_raises_is_bad_media_of_that_record(monkeypatch, reader, error, found):
    def fail(*_):
        raise error

    monkeypatch.setattr(f"ola_jax.data.processor.Processor.{reader}", fail)
    key, name = {"_images": ("image", "img_tiny.png"), "_audio": ("audio", "a_short.wav")}[reader]
    mark = {"_images": "<image>", "_audio": "<speech>"}[reader]
    record = training(f"{mark}\nx", **{key: f"inputs/{name}"})
    with pytest.raises(BadMediaError, match=rf"^record 'r1': '{key}' 'inputs/{name}'.*\({found}") as caught:
        golden_processor().sample(record, ROOT)
    assert len(str(caught.value)) <= 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_not_caught(monkeypatch, stop):
    def fail(*_):
        raise stop

    for reader in ("_images", "_encode"):
        monkeypatch.setattr(f"ola_jax.data.processor.Processor.{reader}", fail)
        with pytest.raises(stop):
            golden_processor().sample(training("<image>\nx", image="inputs/img_tiny.png"), ROOT)


def test_other_failures_name_the_record(monkeypatch):
    def fail(*_):
        raise ValueError("no\nway")

    monkeypatch.setattr("ola_jax.data.processor.merge", fail)
    with pytest.raises(OlaError, match=r"^record \['a', 1\]: cannot be made a sample \(ValueError: no\)$"):
        golden_processor().sample(training("x") | {"id": ["a", 1]})


def test_texts_that_no_tokenizer_takes_are_errors():
    with pytest.raises(OlaError, match=r"record 'r1': 'conversations'\[0\]: 'value': character 1 is half"):
        golden_processor().sample(training("x\ud83d"))
    strange = dataclasses.replace(
        golden_processor(), processor_config=ProcessorConfig(system_prompt="\ud83d")
    )
    with pytest.raises(OlaError, match="record 'r1': cannot be made a sample"):
        strange.sample(training("x"))
    assert len(golden_processor().sample(training("a\0b\x07")).tokens)


def test_settings_that_cannot_work_are_errors():
    good = golden_processor()
    limits = dataclasses.replace(good.limits, video_multiple=48)
    with pytest.raises(OlaError, match="video_multiple is 48 pixels, expected a multiple of 32"):
        dataclasses.replace(good, processor_config=ProcessorConfig(train=limits))
    limits = dataclasses.replace(good.limits, max_frames=0)
    with pytest.raises(OlaError, match="max_frames is 0"):
        dataclasses.replace(good, processor_config=ProcessorConfig(train=limits))
    small = dataclasses.replace(good.config, llm=dataclasses.replace(good.config.llm, vocab_size=700))
    with pytest.raises(OlaError, match="728 tokens, the model's vocab_size is 700"):
        dataclasses.replace(good, config=small)
    blind = dataclasses.replace(good, config=dataclasses.replace(good.config, vision=None))
    with pytest.raises(OlaError, match="'image': this model has no vision encoder"):
        blind.sample(training("<image>\nx", image="inputs/img_tiny.png"), ROOT)
    deaf = dataclasses.replace(good, config=dataclasses.replace(good.config, whisper=None, beats=None))
    with pytest.raises(OlaError, match="'audio': this model has no whisper encoder"):
        deaf.sample(training("<speech>\nx", audio="inputs/a_short.wav"), ROOT)
    seen = deaf.sample(prompt("<speech><image>\nx", video="inputs/clip.mp4"), ROOT)
    assert seen.counts["audio"] == 0
