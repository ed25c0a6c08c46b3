"""Inputs of attention from numpy arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.kernels.attention_inputs import PackedInputs

AnyArray = np.ndarray | jax.Array


def packed_inputs(
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
    q_segments: AnyArray,
    k_segments: AnyArray,
    causal: bool,
    q_offset: int = 0,
) -> PackedInputs:
    """PackedInputs whose arrays are on the device."""
    return PackedInputs(*map(jnp.asarray, (q, k, v, q_segments, k_segments)), causal, q_offset)
