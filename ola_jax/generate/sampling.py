"""Choosing the next token from logits."""

import dataclasses

import jax
import jax.numpy as jnp

from ola_jax.errors import OlaError
from ola_jax.typing import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How to choose tokens and when to stop; the fields of a generation_config.json that matter."""

    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # keep the k most likely; 0: all
    top_p: float = 1.0  # keep the smallest set of at least this probability
    repetition_penalty: float = 1.0  # divides positive and multiplies negative scores of generated tokens
    stop_ids: tuple[int, ...] = ()  # ids that end an answer; the id itself is part of it
    vocab_size: int = 0  # ids from here on are padding of the output matrix and never chosen; 0: all valid

    def __post_init__(self) -> None:
        for name, good, wanted in [
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ]:
            if not good:
                raise OlaError(f"{name} is {getattr(self, name)}; it must be {wanted}")


def from_generation_config(values: dict, vocab_size: int) -> SamplingConfig:
    """The SamplingConfig that a generation_config.json (transformers' format) asks for."""
    stop = values.get("eos_token_id", ())
    return SamplingConfig(
        temperature=float(values.get("temperature", 1.0)) if values.get("do_sample") else 0.0,
        top_k=int(values.get("top_k") or 0),
        top_p=float(values.get("top_p") or 1.0),
        repetition_penalty=float(values.get("repetition_penalty") or 1.0),
        stop_ids=tuple(stop) if isinstance(stop, list | tuple) else (stop,),
        vocab_size=vocab_size,
    )


def next_token(
    logits: Float[Array, "B V"], generated: Bool[Array, "B V"], key: Key[Array, ""], config: SamplingConfig
) -> Int[Array, "B"]:
    """One token id a row. `generated` marks the ids that the answer already holds (quirk C9).

    In the order of transformers: repetition penalty, temperature, top-k, top-p.
    """
    if config.vocab_size:
        logits = jnp.where(jnp.arange(logits.shape[1]) < config.vocab_size, logits, -jnp.inf)
    if config.repetition_penalty != 1.0:
        penalty = config.repetition_penalty
        punished = jnp.where(logits > 0, logits / penalty, logits * penalty)
        logits = jnp.where(generated, punished, logits)
    if config.temperature == 0.0:
        return logits.argmax(axis=-1).astype(jnp.int32)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[1]:
        threshold = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if config.top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probability = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        threshold = jnp.where(before < config.top_p, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
