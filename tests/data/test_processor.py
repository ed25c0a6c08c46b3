import numpy as np
import pytest

from ola_jax.batch import IGNORE, TEXT
from ola_jax.data import prompt_record
from tests.data.golden_processor import golden_processor
from tests.golden import VISIBLE, arrays, index

TRAIN = [c for c in index()["cases"] if c["id"].startswith("train_") or c["id"] == "merge_truncated"]
ROOT = str(VISIBLE)


@pytest.mark.parametrize("case", TRAIN, ids=lambda c: c["id"])
def test_training_tokens_and_merged_labels_are_the_originals(case):
    override = case.get("config_override", {})
    changes = {"max_length": override["tokenizer_model_max_length"]} if override else {}
    processor = golden_processor("train", **changes)
    expected = arrays(case["file"])
    batch = processor(case["samples"], ROOT)
    for row, record in enumerate(case["samples"]):
        length = int(expected["merged_attention_mask"][row].sum())
        assert (batch.segments[row] == (np.arange(batch.segments.shape[1]) < length)).all()
        np.testing.assert_array_equal(
            batch.positions[row, :length], expected["merged_position_ids"][row, :length]
        )
        np.testing.assert_array_equal(
            batch.targets[row, : length - 1], expected["merged_labels"][row, 1:length]
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
