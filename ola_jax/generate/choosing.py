"""Choosing the next token of each slot on the device, by settings that are arrays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ola_jax.generate.sampling import SamplingConfig
from ola_jax.typing import AnyArray, Array, Bool, Float, Int, Key

HUGE = 1e37  # about the largest number that has an inverse in float32


@struct.dataclass
class Settings:
    """A SamplingConfig for each slot, stop ids left out."""

    temperature: Float[AnyArray, "slots"]  # 0: greedy
    top_k: Int[AnyArray, "slots"]  # 0: all
    top_p: Float[AnyArray, "slots"]
    log_min_p: Float[AnyArray, "slots"]  # -inf: all
    repetition_penalty: Float[AnyArray, "slots"]
    vocab_size: Int[AnyArray, "slots"]  # ids from here on are never chosen


def settings(config: SamplingConfig, vocab_size: int) -> Settings:
    """The settings of one slot; `vocab_size`: rows of the output matrix."""
    floats = lambda x: np.asarray([x], np.float32)
    ints = lambda x: np.asarray([x], np.int32)
    clipped = lambda x: floats(max(1 / HUGE, min(x, HUGE)))
    return Settings(
        temperature=clipped(config.temperature) if config.temperature >= 1 / HUGE else floats(0),
        top_k=ints(min(config.top_k, vocab_size)),
        top_p=floats(config.top_p),
        log_min_p=floats(math.log(config.min_p) if config.min_p else -math.inf),
        repetition_penalty=clipped(config.repetition_penalty),
        vocab_size=ints(config.vocab_size or vocab_size),
    )


def next_tokens(
    logits: Float[Array, "slots V"],
    generated: Bool[Array, "slots V"],
    keys: Key[Array, "slots"],
    chosen_by: Settings,
) -> Int[Array, "slots"]:
    """One token id a slot. `generated` marks the ids that the answer already holds (quirk C9).

    In the order of transformers: repetition penalty, temperature, top-k, top-p, min-p. What a slot gets
    does not depend on the others.
    """
    s, limits = chosen_by, jnp.finfo(jnp.float32)
    column = lambda x: x[:, None]
    penalty = column(s.repetition_penalty)
    punished = jnp.clip(jnp.where(logits > 0, logits / penalty, logits * penalty), limits.min, limits.max)
    logits = jnp.where(generated & (penalty != 1.0), punished, logits)
    logits = jnp.where(jnp.arange(logits.shape[1]) < column(s.vocab_size), logits, -jnp.inf)
    greedy = logits.argmax(axis=-1).astype(jnp.int32)

    def drawn() -> Array:
        # The largest is 0, so that no temperature makes it overflow.
        shifted = logits - logits.max(axis=-1, keepdims=True)
        scaled = shifted / jnp.where(column(s.temperature) > 0, column(s.temperature), 1.0)
        sorting = ((s.top_k > 0) | (s.top_p < 1.0)) & (s.temperature > 0)
        kept = jax.lax.cond(sorting.any(), lambda: _likeliest(scaled, s), lambda: scaled)
        kept = jnp.where(kept < column(s.log_min_p), -jnp.inf, kept)
        return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)

    # Sampling is left out where no slot samples: sorting a vocabulary takes as long as a layer.
    tokens = jax.lax.cond((s.temperature > 0).any(), drawn, lambda: greedy)
    return jnp.where(s.temperature > 0, tokens, greedy)


def _likeliest(logits: Float[Array, "slots V"], s: Settings) -> Float[Array, "slots V"]:
    """The logits (the largest is 0) without those that top-k and top-p leave out."""
    ordered = -jnp.sort(-logits, axis=-1)
    last = jnp.take_along_axis(ordered, jnp.maximum(s.top_k - 1, 0)[:, None], axis=-1)
    least = jnp.where(s.top_k[:, None] > 0, last, -jnp.inf)
    logits = jnp.where(logits < least, -jnp.inf, logits)
    ordered = jnp.where(ordered < least, -jnp.inf, ordered)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = (before < s.top_p[:, None]).at[:, 0].set(True)
    least = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where((logits < least) & (s.top_p[:, None] < 1.0), -jnp.inf, logits)
