"""From records to answers: processor, prefill, decode, text."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from tokenizers import Tokenizer

from ola_jax.batch import OlaBatch
from ola_jax.errors import OlaError
from ola_jax.generate.decode import Prompt, decode, prefill
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.generate.streaming import TextStream
from ola_jax.models.ola import Ola
from ola_jax.typing import Array, Params

END = "<|im_end|>"  # ends every turn of a chat
POSITIONS = 32_768  # of a prompt and its answer together: what Qwen2.5 is made for
SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answers to a batch of prompts, and how long the two programs took (compilation included)."""

    ids: list[list[int]]  # the stop id included
    texts: list[str]
    prefill_seconds: float
    decode_seconds: float


def answer(
    model: Ola,
    params: Params,
    batch: OlaBatch,
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    max_new_tokens: int,
    seed: int = 0,
    write: Callable[[str], None] | None = None,
    positions: int = POSITIONS,
) -> Answered:
    """Answer every row of `batch`; with `write`, hand on the text of the first row as it comes.

    `<|im_end|>` ends an answer beside the stop ids of `sampling`, as in the original (quirk P5). Raises
    OlaError where prompt and answer would need more than `positions`, or more memory than there is.
    """
    _check(batch, max_new_tokens, seed, positions)
    sampling = with_end(sampling, tokenizer)
    stream = TextStream(tokenizer, write) if write else None
    stopped = False

    def on_token(step: int, tokens: Array) -> None:
        nonlocal stopped
        if not stopped:
            stream.add(int(tokens[0]))
            stopped = int(tokens[0]) in sampling.stop_ids

    try:
        begin = time.perf_counter()
        prompt: Prompt = jax.block_until_ready(prefill(model, params, batch, max_new_tokens))
        middle = time.perf_counter()
        key = jax.random.key(seed)
        out = decode(model, params, prompt, max_new_tokens, sampling, key, on_token if stream else None)
        tokens, lengths = np.asarray(out.tokens), np.asarray(out.length)
        end = time.perf_counter()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OlaError(
            f"{len(batch.tokens)} prompts of {batch.tokens.shape[1]} tokens, {max_new_tokens} new ones each: "
            "too much for the device's memory; lower max_new_tokens or shorten the prompt"
        ) from error
    if stream:
        stream.close()
    ids = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return Answered(ids, texts(ids, tokenizer), middle - begin, end - middle)


def with_end(sampling: SamplingConfig, tokenizer: Tokenizer) -> SamplingConfig:
    """The same, stopping at `<|im_end|>` as well."""
    end = tokenizer.token_to_id(END)
    if end is None:
        raise OlaError(f"tokenizer: no {END}, which ends an answer; use a Qwen2 chat tokenizer")
    return dataclasses.replace(sampling, stop_ids=tuple(dict.fromkeys((*sampling.stop_ids, end))))


def texts(ids: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    """Answers as the original prints them: special tokens left out, outer space stripped."""
    return [tokenizer.decode(list(row), skip_special_tokens=True).strip() for row in ids]


def _check(batch: OlaBatch, max_new_tokens: int, seed: int, positions: int) -> None:
    if max_new_tokens < 1:
        raise OlaError(f"max_new_tokens is {max_new_tokens}; it must be 1 or more")
    if not 0 <= seed < SEEDS:
        raise OlaError(f"seed is {seed}; it must be from 0 to {SEEDS - 1}")
    longest = int((batch.segments > 0).sum(axis=1).max())
    if longest + max_new_tokens > positions:
        raise OlaError(
            f"the prompt has {longest} tokens and max_new_tokens is {max_new_tokens}; together at most "
            f"{positions} are allowed: lower max_new_tokens or shorten the prompt"
        )
