"""From records to answers: processor, prefill, decode, text."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from tokenizers import Tokenizer

from ola_jax.batch import OlaBatch
from ola_jax.generate.decode import decode, prefill
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.generate.streaming import TextStream
from ola_jax.models.ola import Ola
from ola_jax.typing import Array, Params


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
) -> Answered:
    """Answer every row of `batch`; with `write`, hand on the text of the first row as it comes."""
    stream = TextStream(tokenizer, write) if write else None
    stopped = False

    def on_token(step: Array, tokens: Array) -> None:
        nonlocal stopped
        if not stopped:
            stream.add(int(tokens[0]))
            stopped = int(tokens[0]) in sampling.stop_ids

    begin = time.perf_counter()
    prompt = jax.block_until_ready(prefill(model, params, batch, max_new_tokens))
    middle = time.perf_counter()
    out = decode(
        model, params, prompt, max_new_tokens, sampling, jax.random.key(seed), on_token if stream else None
    )
    out = jax.block_until_ready(out)
    jax.effects_barrier()
    end = time.perf_counter()
    if stream:
        stream.close()
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.length)
    ids = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return Answered(ids, texts(ids, tokenizer), middle - begin, end - middle)


def texts(ids: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    """Answers as the original prints them: special tokens left out, outer space stripped."""
    return [tokenizer.decode(list(row), skip_special_tokens=True).strip() for row in ids]
