"""Loading the byte-level BPE tokenizer of a checkpoint."""

import pathlib

from tokenizers import Tokenizer

from ola_jax.errors import OlaError, first_line

START = "<|im_start|>"
END = "<|im_end|>"


def load_tokenizer(directory: str | pathlib.Path) -> Tokenizer:
    """Loads a directory's tokenizer: `tokenizer.json`, or Qwen2's `vocab.json` and `merges.txt`.

    Truncation and padding that the file may ask for are switched off. Raises OlaError if there is no
    tokenizer, or if chat tokens are missing.
    """
    directory = pathlib.Path(directory)
    file = directory / "tokenizer.json"
    try:
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        elif (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            from transformers import AutoTokenizer  # slow to import, and rarely needed

            tokenizer = AutoTokenizer.from_pretrained(str(directory), use_fast=True).backend_tokenizer
        else:
            raise OlaError(
                f"{directory}: no tokenizer in it; expected tokenizer.json, or vocab.json and merges.txt"
            )
    except OlaError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise OlaError(f"{directory}: the tokenizer cannot be read ({first_line(error)})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    check_chat_tokens(tokenizer, str(directory))
    return tokenizer


def check_chat_tokens(tokenizer: Tokenizer, where: str) -> None:
    """Raises OlaError unless each chat mark and a newline is a single token."""
    for text in (START, END, "\n"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise OlaError(
                f"{where}: {text!r} is {len(ids)} tokens, expected one; use a Qwen2 chat tokenizer"
            )
