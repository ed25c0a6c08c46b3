"""Prefill and decoding: compiled programs, a key-value cache between them, driven from the host."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ola_jax.batch import OlaBatch
from ola_jax.generate.sampling import SamplingConfig, next_token
from ola_jax.models.ola import Ola
from ola_jax.models.qwen2 import KVCache, empty_cache
from ola_jax.typing import Array, Bool, Float, Int, Key, Params

OnToken = Callable[[int, Array], None]  # (step, token ids of the rows [B]), called in order

# Tokens that one call of the program makes while nobody waits for each: the host costs little, and an
# interrupt is noticed between two calls.
CHUNK = 64


@struct.dataclass
class Prompt:
    """A prompt that the model has read."""

    logits: Float[Array, "B V"]  # of the first new token
    length: Int[Array, "B"]  # tokens of each row
    cache: KVCache


@struct.dataclass
class Answer:
    """Generated ids, and how many of them belong to each row's answer (its stop id included)."""

    tokens: Int[Array, "B new"]
    length: Int[Array, "B"]


@struct.dataclass
class Decoding:
    """Answers under way."""

    step: Int[Array, ""]  # tokens made so far
    tokens: Int[Array, "B new"]
    length: Int[Array, "B"]  # of each row's answer so far
    done: Bool[Array, "B"]  # rows that have met a stop id
    generated: Bool[Array, "B V"]  # ids that each answer holds
    start: Int[Array, "B"]  # tokens of each row's prompt
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def prefill(model: Ola, params: Params, batch: OlaBatch, max_new_tokens: int) -> Prompt:
    """Read one prompt a row; rows may differ in length. The cache has room for the answer."""
    rows, length = batch.tokens.shape
    cache = empty_cache(model.config.llm, rows, length + max_new_tokens, jnp.dtype(model.config.dtype))
    hidden, cache = model.apply({"params": params}, batch, cache, method="prefill")
    used = (batch.segments > 0).sum(axis=1)
    last = jnp.take_along_axis(hidden, (used - 1)[:, None, None], axis=1)[:, 0]
    logits = model.apply({"params": params}, last, method=lambda m, x: m.llm.logits(x))
    return Prompt(logits=logits, length=used, cache=cache)


def decode(
    model: Ola,
    params: Params,
    prompt: Prompt,
    max_new_tokens: int,
    sampling: SamplingConfig,
    key: Key[Array, ""],
    on_token: OnToken | None = None,
) -> Answer:
    """Answer until every row has met a stop id or `max_new_tokens` are made.

    `on_token` is called on the host for every step as it happens; the ids are the same without it. A row
    that has stopped goes on with its stop id until the others are done.
    """
    state = begin(prompt, max_new_tokens, sampling, key)
    step, done = 1, np.asarray(state.done).all()
    if on_token is not None:
        on_token(0, np.asarray(state.tokens)[:, 0])
    while step < max_new_tokens and not done:
        until = min(step + (CHUNK if on_token is None else 1), max_new_tokens)
        state, newest = advance(model, params, state, until, sampling, key)
        step, done = until, np.asarray(state.done).all()
        if on_token is not None:
            on_token(step - 1, np.asarray(newest))
    return Answer(tokens=state.tokens, length=state.length)


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "sampling"))
def begin(prompt: Prompt, max_new_tokens: int, sampling: SamplingConfig, key: Key[Array, ""]) -> Decoding:
    """The first token of every answer."""
    rows, vocab = prompt.logits.shape
    state = Decoding(
        step=jnp.int32(0),
        tokens=jnp.zeros((rows, max_new_tokens), jnp.int32),
        length=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        generated=jnp.zeros((rows, vocab), bool),
        start=prompt.length,
        cache=prompt.cache,
    )
    return _append(state, prompt.logits, sampling, key)


@functools.partial(jax.jit, static_argnames=("model", "sampling"), donate_argnames="state")
def advance(
    model: Ola,
    params: Params,
    state: Decoding,
    until: Int[Array, ""] | int,
    sampling: SamplingConfig,
    key: Key[Array, ""],
) -> tuple[Decoding, Int[Array, "B"]]:
    """The answers up to `until` tokens, less if all rows have stopped; and the newest token of each row.

    One program whatever `until` is. `state` is used up.
    """

    def extend(m: Ola, token: Array, position: Array, cache: KVCache) -> tuple[Array, KVCache]:
        ones = jnp.ones_like(position)
        hidden, cache = m.llm.extend(m.llm.embed(token), position, ones, cache)
        return m.llm.logits(hidden[:, 0]), cache

    def body(state: Decoding) -> Decoding:
        last = state.tokens[:, state.step - 1, None]
        position = (state.start + state.step - 1)[:, None]
        logits, cache = model.apply({"params": params}, last, position, state.cache, method=extend)
        return _append(state.replace(cache=cache), logits, sampling, key)

    running = lambda state: (state.step < until) & ~state.done.all()
    state = jax.lax.while_loop(running, body, state)
    return state, state.tokens[:, state.step - 1]


def _append(
    state: Decoding, logits: Float[Array, "B V"], sampling: SamplingConfig, key: Key[Array, ""]
) -> Decoding:
    """Append the token that `logits` yield."""
    step, rows = state.step, jnp.arange(len(logits))
    token = next_token(logits, state.generated, jax.random.fold_in(key, step), sampling)
    token = jnp.where(state.done, state.tokens[:, step - 1], token)
    stop_ids = jnp.array(sampling.stop_ids, jnp.int32)
    return state.replace(
        step=step + 1,
        tokens=state.tokens.at[:, step].set(token),
        length=state.length + ~state.done,
        done=state.done | (token[:, None] == stop_ids).any(axis=1),
        generated=state.generated.at[rows, token].set(True),
    )
