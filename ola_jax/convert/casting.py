"""Values in another dtype, refused where that would make infinities of them."""

import pathlib

import jax.numpy as jnp
import numpy as np

from ola_jax.errors import OlaError
from ola_jax.typing import DTypeLike, Shaped

BLOCK = 2**22  # values that are looked at together: the answers take memory too


def cast(
    values: Shaped[np.ndarray, "..."], dtype: DTypeLike, key: str, file: pathlib.Path
) -> Shaped[np.ndarray, "..."]:
    """`values` in `dtype`. OlaError if one lies beyond its range."""
    with np.errstate(over="ignore"):
        out = values.astype(jnp.dtype(dtype))
    if overflowed(values, out):
        raise OlaError(
            f"{file}: {key} has values beyond the range of {out.dtype.name}, the dtype of the base"
        )
    return out


def overflowed(values: Shaped[np.ndarray, "..."], out: Shaped[np.ndarray, "..."]) -> bool:
    """Whether a finite value became infinite in `out`, a copy of `values` in another dtype."""
    if jnp.finfo(values.dtype).max <= jnp.finfo(out.dtype).max:
        return False
    before, after = values.reshape(-1), out.reshape(-1)
    for i in range(0, after.size, BLOCK):
        infinite = np.isinf(after[i : i + BLOCK])
        if infinite.any() and np.isfinite(before[i : i + BLOCK][infinite]).any():
            return True
    return False
