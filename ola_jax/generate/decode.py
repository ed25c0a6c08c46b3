"""Prefill and decoding: two compiled programs, a key-value cache between them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.experimental import io_callback

from ola_jax.batch import OlaBatch
from ola_jax.generate.sampling import SamplingConfig, next_token
from ola_jax.models.ola import Ola
from ola_jax.models.qwen2 import KVCache, empty_cache
from ola_jax.typing import Array, Float, Int, Key, Params

OnToken = Callable[[Array, Array], None]  # (step, token ids of the rows [B]), called in order


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


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "sampling", "on_token"))
def decode(
    model: Ola,
    params: Params,
    prompt: Prompt,
    max_new_tokens: int,
    sampling: SamplingConfig,
    key: Key[Array, ""],
    on_token: OnToken | None = None,
) -> Answer:
    """Answer until every row has met a stop id or `max_new_tokens` are made: one program, one loop.

    `on_token` is called on the host for every step as it happens. A row that has stopped goes on
    with its stop id until the others are done.
    """
    rows, vocab = prompt.logits.shape
    stop_ids = jnp.array(sampling.stop_ids, jnp.int32)

    def choose(state: dict, logits: Array) -> dict:
        """Append the token that `logits` yield."""
        step = state["step"]
        token = next_token(logits, state["generated"], jax.random.fold_in(key, step), sampling)
        token = jnp.where(state["done"], state["tokens"][:, step - 1], token)
        if on_token is not None:
            io_callback(on_token, None, step, token, ordered=True)
        return state | {
            "step": step + 1,
            "tokens": state["tokens"].at[:, step].set(token),
            "length": state["length"] + ~state["done"],
            "done": state["done"] | (token[:, None] == stop_ids).any(axis=1),
            "generated": state["generated"].at[jnp.arange(rows), token].set(True),
        }

    def extend(m: Ola, token: Array, position: Array, cache: KVCache) -> tuple[Array, KVCache]:
        ones = jnp.ones_like(position)
        hidden, cache = m.llm.extend(m.llm.embed(token), position, ones, cache)
        return m.llm.logits(hidden[:, 0]), cache

    def body(state: dict) -> dict:
        last = state["tokens"][:, state["step"] - 1, None]
        position = (prompt.length + state["step"] - 1)[:, None]
        logits, cache = model.apply({"params": params}, last, position, state["cache"], method=extend)
        return choose(state | {"cache": cache}, logits)

    state = {
        "step": jnp.int32(0),
        "tokens": jnp.zeros((rows, max_new_tokens), jnp.int32),
        "length": jnp.zeros(rows, jnp.int32),
        "done": jnp.zeros(rows, bool),
        "generated": jnp.zeros((rows, vocab), bool),
        "cache": prompt.cache,
    }
    running = lambda state: (state["step"] < max_new_tokens) & ~state["done"].all()
    state = jax.lax.while_loop(running, body, choose(state, prompt.logits))
    return Answer(tokens=state["tokens"], length=state["length"])
