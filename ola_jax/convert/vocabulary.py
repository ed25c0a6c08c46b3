"""Resizing embeddings to one row for each token, as the original does on loading (quirk C5)."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray

KEYS = ("model.embed_tokens.weight", "lm_head.weight")
STD = 0.02  # of new rows, if config.json has no initializer_range


def count_tokens(directory: pathlib.Path) -> int | None:
    """The number of the tokenizer's tokens, added ones included; None if there is no tokenizer."""
    file = directory / "tokenizer.json"
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file)).get_vocab_size()
        if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            from transformers import AutoTokenizer  # slow to import, and rarely needed

            return len(AutoTokenizer.from_pretrained(str(directory)))
    except Exception as error:  # the Rust side raises bare Exception
        raise OlaError(f"{file}: the tokenizer cannot be read ({error})") from error
    return None


def check_vocabulary(directory: pathlib.Path, values: dict[str, Any]) -> None:
    """Raises OlaError if the tokenizer has tokens without a row in the embeddings."""
    size, rows = count_tokens(directory), values.get("vocab_size")
    if size is not None and type(rows) is int and size > rows:
        raise OlaError(
            f"{directory}: the tokenizer has {size} tokens, the embeddings {rows} rows; --vocabulary "
            "tokenizer resizes them as the original does on loading"
        )


def resize_vocabulary(
    directory: pathlib.Path, tensors: dict[str, Tensor], values: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Tensors and config.json with one row for each token, and a note for the user.

    Rows beyond the tokenizer's are cut off; new ones are drawn from N(0, initializer_range), as
    resize_token_embeddings did in the original's version of transformers.
    """
    size, rows = count_tokens(directory), values.get("vocab_size")
    if size is None:
        raise OlaError(f"{directory}: no tokenizer, which --vocabulary tokenizer takes the size from")
    if type(rows) is not int:
        raise OlaError(
            f"{directory / 'config.json'}: vocab_size: found {rows!r:.40}, expected a positive number"
        )
    if size == rows:
        return tensors, values, []
    std = values.get("initializer_range") or STD
    if not isinstance(std, int | float) or not 0 < std < 1e3:
        raise OlaError(
            f"{directory / 'config.json'}: initializer_range: found {std!r:.40}, expected about {STD}"
        )
    seeds = (0, 0) if values.get("tie_word_embeddings") else (0, 1)  # tied: the same new rows
    resized = {
        key: _resized(tensors[key], size, std, seed)
        for key, seed in zip(KEYS, seeds, strict=True)
        if key in tensors
    }
    note = f"vocabulary: resized from {rows} rows to {size}, the tokenizer's size"
    if size > rows:
        note += f"; the {size - rows} new ones are random, N(0, {std})"
    return tensors | resized, values | {"vocab_size": size}, [note]


def _resized(tensor: Tensor, size: int, std: float, seed: int) -> Tensor:
    def read() -> HostArray:
        values = tensor.read()[:size]
        new = np.random.default_rng(seed).normal(0, std, (size - len(values), values.shape[1]))
        return (
            np.concatenate([values, new.astype(values.dtype)]) if len(new) else np.ascontiguousarray(values)
        )

    return dataclasses.replace(tensor, shape=(size, *tensor.shape[1:]), read=read)
