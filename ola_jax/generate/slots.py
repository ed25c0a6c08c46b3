"""The engine's programs: a chunk of a prompt is read, an answer begins, all answers advance.

Each is one program, whatever the lengths of prompts and answers and however many slots are in use.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ola_jax.batch import TEXT
from ola_jax.generate.choosing import Settings, next_tokens
from ola_jax.models.ola import Ola
from ola_jax.models.qwen2 import Behind, KVCache, empty_cache
from ola_jax.sharding import constrain
from ola_jax.typing import AnyArray, Array, Bool, DTypeLike, Float, Int, Params, Shaped, UInt32

MAX_STOP_IDS = 64  # of one answer
ROWS_ON_CPU = 8  # slots that one call advances
NO_ID = -1


@struct.dataclass
class Answering:
    """Settings and progress of the answers: one entry for each slot."""

    settings: Settings
    stop_ids: Int[Array, "slots stops"]  # NO_ID: none
    keys: Shaped[Array, "slots 2"]  # data of the request's key; step i draws with fold_in(key, i)
    token: Int[Array, "slots"]  # the newest, not yet in the cache
    places: Int[Array, "slots"]  # of the cache that are written
    step: Int[Array, "slots"]  # tokens made so far
    left: Int[Array, "slots"]  # tokens that may still be made
    active: Bool[Array, "slots"]
    generated: Bool[Array, "slots V"]  # ids that the answer holds


@struct.dataclass
class Slots:
    """The state of all slots on the device."""

    cache: KVCache
    answering: Answering


@struct.dataclass
class Start:
    """Settings of one answer: the leaves of one slot."""

    settings: Settings
    stop_ids: Int[AnyArray, "1 stops"]
    seed: UInt32[AnyArray, ""]
    places: Int[AnyArray, ""]  # tokens of the prompt
    new_tokens: Int[AnyArray, ""]  # that may be made at most


def empty_slots(model: Ola, slots: int, places: int, dtype: DTypeLike) -> Slots:
    """Slots in which nothing runs."""
    c = model.config.llm
    floats, ints = lambda x: jnp.full(slots, x, jnp.float32), lambda x: jnp.full(slots, x, jnp.int32)
    answering = Answering(
        settings=Settings(
            temperature=floats(0),
            top_k=ints(0),
            top_p=floats(1),
            log_min_p=floats(-jnp.inf),
            repetition_penalty=floats(1),
            vocab_size=ints(c.vocab_size),
        ),
        stop_ids=jnp.full((slots, MAX_STOP_IDS), NO_ID, jnp.int32),
        keys=jnp.zeros((slots, 2), jnp.uint32),
        token=ints(0),
        places=ints(0),
        step=ints(0),
        left=ints(0),
        active=jnp.zeros(slots, bool),
        generated=jnp.zeros((slots, c.vocab_size), bool),
    )
    return Slots(cache=empty_cache(c, slots, places, dtype=dtype), answering=answering)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def read_chunk(
    model: Ola,
    params: Params,
    cache: KVCache,
    slot: Int[Array, ""],
    start: Int[Array, ""],
    last: Int[Array, ""],
    tokens: Int[Array, "chunk"],
    source: Int[Array, "chunk"],
    table: Float[Array, "R D"],
) -> tuple[KVCache, Float[Array, "D"]]:
    """Read tokens of a prompt into places `start` ... of a slot; and the hidden state of token `last`.

    `source` is TEXT or a row of `table`. Padding stands at the end, where the answer's tokens are written
    before anything sees it.
    """

    def extend(m: Ola) -> tuple[Array, KVCache]:
        is_text = source == TEXT
        text = m.llm.embed(jnp.where(is_text, tokens, 0)[None])[0]
        x = jnp.where(is_text[:, None], text, table[jnp.maximum(source, 0)])
        where = Behind(slot=slot, start=start[None], kept=jnp.ones(1, bool))
        return m.llm.extend(x[None], where, cache)

    hidden, cache = _apply(model, params, extend)
    return cache, hidden[0, last]


@functools.partial(jax.jit, static_argnames="model", donate_argnames="answering")
def begin(
    model: Ola,
    params: Params,
    answering: Answering,
    slot: Int[Array, ""],
    hidden: Float[Array, "D"],
    start: Start,
) -> tuple[Answering, Int[Array, ""]]:
    """Begin an answer in a slot with its first token, which `hidden`, of the prompt's last token, yields."""
    logits: Array = _apply(model, params, lambda m: m.llm.logits(hidden[None]))
    none = jnp.zeros((1, logits.shape[1]), bool)
    key = jax.random.key(start.seed)
    token = next_tokens(logits, none, jax.random.fold_in(key, 0)[None], start.settings)[0]
    left = start.new_tokens - 1
    put = lambda old, new: jnp.asarray(old).at[slot].set(new)
    a, stop_ids = answering, start.stop_ids[0]
    answering = Answering(
        settings=jax.tree.map(lambda old, new: put(old, new[0]), a.settings, start.settings),
        stop_ids=put(a.stop_ids, stop_ids),
        keys=put(a.keys, jax.random.key_data(key)),
        token=put(a.token, token),
        places=put(a.places, start.places),
        step=put(a.step, 1),
        left=put(a.left, left),
        active=put(a.active, (left > 0) & (token != stop_ids).all()),
        generated=put(a.generated, none[0].at[token].set(True)),
    )
    return replicated(answering), token


@functools.partial(jax.jit, static_argnames=("model", "steps", "rows"), donate_argnames="slots")
def advance(
    model: Ola,
    params: Params,
    slots: Slots,
    first: Int[Array, ""],
    going: Bool[Array, "rows"],
    steps: int,
    rows: int,
) -> tuple[Slots, Int[Array, "steps rows"]]:
    """Make up to `steps` tokens for each active slot of those from `first` on; NO_ID where none was made.

    Slots that are not `going` are stopped first. `slots` is used up.
    """
    if rows == len(slots.answering.token):
        first = jnp.int32(0)
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, first, rows)
    paste = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, first, 0)

    def body(carry: tuple[KVCache, Answering], _: None) -> tuple[tuple[KVCache, Answering], Array]:
        cache, a = carry
        where = Behind(slot=first, start=jnp.where(a.active, a.places, 0), kept=a.active)

        def extend(m: Ola) -> tuple[Array, KVCache]:
            hidden, longer = m.llm.extend(m.llm.embed(a.token[:, None]), where, cache)
            return m.llm.logits(hidden[:, 0]), longer

        logits, longer = _apply(model, params, extend)
        logits = constrain(logits, None, None)  # a mesh has split the vocabulary
        keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(a.keys), a.step)
        # A slot at rest keeps its settings: it must not make the others wait for sampling.
        chosen_by = dataclasses.replace(
            a.settings, temperature=jnp.where(a.active, a.settings.temperature, 0)
        )
        token = jnp.where(a.active, next_tokens(logits, a.generated, keys, chosen_by), a.token)
        ended = (token[:, None] == a.stop_ids).any(axis=1)
        count = a.active.astype(jnp.int32)
        made = jnp.where(a.active, token, NO_ID)
        a = dataclasses.replace(
            a,
            token=token,
            places=a.places + count,
            step=a.step + count,
            left=a.left - count,
            active=a.active & ~ended & (a.left > 1),
            generated=jnp.asarray(a.generated).at[jnp.arange(len(token)), token].max(a.active),
        )
        return (longer, replicated(a)), made

    answering: Answering = jax.tree.map(cut, slots.answering)
    answering = dataclasses.replace(answering, active=answering.active & going)
    (cache, answering), made = jax.lax.scan(body, (slots.cache, answering), None, length=steps)
    answering = replicated(jax.tree.map(paste, slots.answering, answering))
    return Slots(cache=cache, answering=answering), made


def count_rows(slots: int, platform: str) -> int:
    """The slots that one call advances: on accelerators all, for then the weights are read once.

    On CPUs a call takes longer with each, so that those at rest should not be among them. Any number is the
    same for all calls, which keeps an answer the same.
    """
    return -(-slots // -(-slots // ROWS_ON_CPU)) if platform == "cpu" else slots


def replicated(answering: Answering) -> Answering:
    """The same, replicated on a mesh, so that the next call finds the shardings of this one."""
    return jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), answering)


def _apply(model: Ola, params: Params, method: Callable[[Ola], Any]) -> Any:
    """The method's result; Flax's own annotation is that of a call that changes variables."""
    return model.apply({"params": params}, method=method)
