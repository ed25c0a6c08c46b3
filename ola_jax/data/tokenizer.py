"""Loading the byte-level BPE tokenizer of a checkpoint."""

import pathlib

from tokenizers import Tokenizer

from ola_jax.data.media import first_line
from ola_jax.errors import OlaError

START = "<|im_start|>"
END = "<|im_end|>"


def load_tokenizer(directory: str | pathlib.Path) -> Tokenizer:
    """The tokenizer in a directory: `tokenizer.json`, or Qwen2's `vocab.json` and `merges.txt`.

    Truncation and padding that the file may ask for are switched off. Raises OlaError when there is
    no tokenizer or the chat tokens are missing.
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
            raise OlaError(f"{directory}: no tokenizer.json (nor vocab.json and merges.txt) in it")
    except OlaError:
        raise
    except Exception as error:  # the Rust side raises bare Exception
        raise OlaError(f"{directory}: not a tokenizer that can be read: {first_line(error)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    check_chat_tokens(tokenizer, str(directory))
    return tokenizer


def check_chat_tokens(tokenizer: Tokenizer, where: str) -> None:
    """Raise OlaError unless the chat marks are single tokens and a newline is one token."""
    for text in (START, END, "\n"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise OlaError(
                f"{where}: {text!r} is {len(ids)} tokens, expected one; use a Qwen2 chat tokenizer"
            )
