import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from examples.digits_omni.build import load_records
from examples.digits_omni.tasks import SPLITS, tasks_of
from examples.digits_omni.tokenizer_training import (
    OLA_SPECIAL,
    PATTERN,
    QWEN_SPECIAL,
    generation_config,
    save_tokenizer,
    train_tokenizer,
    training_texts,
)

QWEN_CASES = Path(__file__).parents[2] / "goldens" / "qwen_tokenizer_cases.json"


@pytest.fixture(scope="module")
def directory(dataset, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    save_tokenizer(train_tokenizer(training_texts(dataset)), directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


def test_directory_has_qwen2s_files(directory):
    names = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"}
    assert {path.name for path in directory.iterdir()} == names


def test_pattern_is_qwen2s():
    assert json.loads(QWEN_CASES.read_text())["pattern"] == PATTERN


def test_any_text_survives(tokenizer):
    for case in json.loads(QWEN_CASES.read_text())["cases"]:
        assert tokenizer.decode(tokenizer(case["text"]).input_ids) == case["decoded"]


def test_special_tokens_have_the_last_ids_in_order(tokenizer):
    special = [*QWEN_SPECIAL, *OLA_SPECIAL]
    ids = tokenizer.convert_tokens_to_ids(special)
    assert ids == list(range(len(tokenizer) - len(special), len(tokenizer)))
    for text, i in zip(special, ids, strict=True):
        assert tokenizer(text).input_ids == [i]
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


def test_both_libraries_give_the_same_ids(directory, tokenizer):
    fast = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in ("Which digit is it?", "<|im_start|>user\nhéllo 12<|im_end|>\n", "\n\n x  y"):
        assert fast.encode(text).ids == tokenizer(text).input_ids


def test_chat_template_is_qwen2s(tokenizer):
    messages = [{"role": "user", "content": "Name the digit."}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nName the digit.<|im_end|>\n<|im_start|>assistant\n"
    )
    with_system = [{"role": "system", "content": "Be brief."}, *messages]
    assert tokenizer.apply_chat_template(with_system, tokenize=False).count("system") == 1


def test_texts_of_the_dataset_are_short(dataset, tokenizer):
    assert len(tokenizer) <= 512
    assert len(tokenizer("You are a helpful assistant.").input_ids) <= 8
    for split in SPLITS:
        for task in tasks_of(split):
            for record in load_records(dataset, split, task.name):
                answer = record["conversations"][1]["value"]
                assert len(tokenizer(answer).input_ids) <= (6 if "." not in answer else 24), answer


def test_training_is_deterministic(dataset, directory):
    again = train_tokenizer(training_texts(dataset))
    assert json.loads(again.to_str()) == json.loads((directory / "tokenizer.json").read_text())


def test_vocabulary_is_bounded(dataset):
    assert train_tokenizer(training_texts(dataset), vocab_size=320).get_vocab_size() == 320


def test_generation_ends_with_the_turn(tokenizer):
    config = generation_config(tokenizer.backend_tokenizer)
    assert config["eos_token_id"] == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert config["temperature"] == 0
