"""Samples of the processor compared with the original's tokens, labels and merged lengths."""

import numpy as np
import pytest

from ola_jax.batch import IGNORE, TEXT
from ola_jax.data import prompt_record
from tests.data.golden_processor import golden_processor
from tests.golden import VISIBLE, arrays, index

TRAIN = [case for case in index()["cases"] if case["id"].startswith(("train_", "merge_"))]
INFER = [case for case in index()["cases"] if case["id"].startswith("infer_")]
ROOT = str(VISIBLE)


@pytest.mark.parametrize("case", TRAIN, ids=lambda c: c["id"])
def test_training_tokens_and_merged_labels_are_the_originals(case):
    override = case.get("config_override", {}).get("tokenizer_model_max_length")
    changes = {"max_length": override} if override else {}
    processor = golden_processor("train", **changes)
    expected = arrays(case["file"])
    batch = processor(case["samples"], ROOT)
    for row, record in enumerate(case["samples"]):
        present = expected["merged_attention_mask"][row].astype(bool)  # padded left or right
        length = int(present.sum())
        assert (batch.segments[row] == (np.arange(batch.segments.shape[1]) < length)).all()
        np.testing.assert_array_equal(
            batch.positions[row, :length], expected["merged_position_ids"][row][present]
        )
        np.testing.assert_array_equal(
            batch.targets[row, : length - 1], expected["merged_labels"][row][present][1:]
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
    """The record of an inference case, from its command line or its prompt and files."""
    if "cli" in case:
        cli = dict(case["cli"])
        images = [cli.pop("image")] if "image" in cli else []
        return prompt_record(**cli, images=images)
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


@pytest.mark.parametrize("case", [c for c in INFER if "file" in c], ids=lambda c: c["id"])
def test_prompt_tokens_and_merged_length_are_the_originals(case):
    expected = arrays(case["file"])
    sample = golden_processor("infer").sample(infer_record(case), ROOT)
    np.testing.assert_array_equal(sample.prompt_ids, expected["input_ids"][0])
    assert (sample.targets == IGNORE).all()
    if "images_shape" not in case:  # in those the original used only the first frame
        assert len(sample.tokens) == expected["merged_len"]


@pytest.mark.parametrize("case", [c for c in INFER if "upstream_error" in c], ids=lambda c: c["id"])
def test_prompts_on_which_the_original_crashes_equal_its_fixed_ones(case):
    fixed = next(c for c in INFER if c["id"] == case["id"].removesuffix("_literal"))
    processor = golden_processor("infer")
    sample = processor.sample(infer_record(case), ROOT)
    np.testing.assert_array_equal(sample.prompt_ids, arrays(fixed["file"])["input_ids"][0])
