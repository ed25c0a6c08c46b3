"""Trains a small byte-level BPE tokenizer in Qwen2's form on the dataset's own texts."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from examples.digits_omni.build import load_records
from examples.digits_omni.tasks import AIDS, tasks_of
from ola_jax.config import ProcessorConfig

# Qwen2's pattern: contractions, words, single figures, punctuation, line ends, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
OLA_SPECIAL = ("<|ocr_start|>", "<|ocr_end|>", "<|face_start|>", "<|face_end|>", "<|mm_pad|>")
SYSTEM_PROMPT = ProcessorConfig().system_prompt
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n" + SYSTEM_PROMPT + "<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def training_texts(root: Path) -> list[str]:
    """The texts that train the tokenizer: those of the training records, and the words of the chat format."""
    texts = []
    for name in (*(task.name for task in tasks_of("train")), *AIDS):
        for record in load_records(root, "train", name):
            turns = [turn["value"] for turn in record["conversations"]]
            texts += [*turns, record.get("text_q", ""), f"system\n{SYSTEM_PROMPT}", "user\n", "assistant\n"]
    return [text.replace("<image>", "").replace("<speech>", "") for text in texts]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> Tokenizer:
    """A tokenizer of at most `vocab_size` tokens, special tokens included (they have the last ids)."""
    special = [*QWEN_SPECIAL, *OLA_SPECIAL]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The generation_config.json for a model with this tokenizer: greedy, short answers."""
    end_of_text, im_end = (tokenizer.token_to_id(text) for text in ("<|endoftext|>", "<|im_end|>"))
    return {
        "bos_token_id": end_of_text,
        "do_sample": False,
        "eos_token_id": [im_end, end_of_text],
        "max_new_tokens": 16,
        "pad_token_id": end_of_text,
        "repetition_penalty": 1.0,
        "temperature": 0.0,
        "top_p": 1.0,
    }


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json, vocab.json, merges.txt and tokenizer_config.json.

    `transformers.AutoTokenizer.from_pretrained(directory)` opens it. Written beside its place and renamed;
    a directory of that name is replaced.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(str(partial / "tokenizer.json"))
    tokenizer.model.save(str(partial))  # vocab.json and merges.txt
    special = {tokenizer.token_to_id(text): text for text in (*QWEN_SPECIAL, *OLA_SPECIAL)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": text} | flags for i, text in special.items()},
        "additional_special_tokens": [*QWEN_SPECIAL[1:], *OLA_SPECIAL],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32_768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
