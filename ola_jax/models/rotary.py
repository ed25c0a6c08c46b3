"""Rotary position embedding, plain or scaled by YaRN for contexts longer than in pre-training."""

import math

import jax.numpy as jnp
import numpy as np

from ola_jax.config import YarnConfig
from ola_jax.typing import Array, Float, HostArray, Int


def rope(
    x: Float[Array, "B L heads h"],
    positions: Int[Array, "B L"],
    *,
    theta: float,
    scaling: YarnConfig | None = None,
) -> Float[Array, "B L heads h"]:
    """Rotates the two halves of each head, as pairs; angles and their cosines in float32 (quirk L1)."""
    frequency, magnitude = inverse_frequencies(x.shape[-1], theta, scaling)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if magnitude != 1.0:
        cos, sin = cos * np.float32(magnitude), sin * np.float32(magnitude)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def inverse_frequencies(
    width: int, theta: float, scaling: YarnConfig | None = None
) -> tuple[Float[HostArray, " half"], float]:
    """Radians per position of each pair of a head's `width` dimensions, and the factor of cosine and sine.

    Computed on the host: at position 100,000 an error in the last bit of a frequency rotates its pair by
    0.01 radians, and a compiled power often has one. Source: transformers' modeling_rope_utils.py.
    """
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    period = np.power(float(theta), exponent.astype(np.float64)).astype(np.float32)
    plain = np.float32(1) / period
    if scaling is None:
        return plain, 1.0
    low, high = (
        _pair_of_rotations(
            rotations, width=width, theta=theta, length=scaling.original_max_position_embeddings
        )
        for rotations in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if low == high else high
    ramp = (np.arange(width // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1) - np.clip(ramp, 0, 1)  # weight of each pair's plain frequency
    stretched = np.float32(1) / (np.float32(scaling.factor) * period)
    return stretched * (np.float32(1) - kept) + plain * kept, attention_factor(scaling)


def attention_factor(scaling: YarnConfig) -> float:
    """Factor of cosine and sine: the config's own, or the one that follows from its `factor`."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    from_factor = lambda m: 0.1 * m * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return from_factor(scaling.mscale) / from_factor(scaling.mscale_all_dim)
    return from_factor(1.0)


def _pair_of_rotations(rotations: float, *, width: int, theta: float, length: int) -> float:
    """The (fractional) index of the pair that makes this many rotations over `length` positions."""
    return width * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))
