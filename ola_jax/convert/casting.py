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
        raise OlaError(f"{file}: {key} has values beyond the range of {out.dtype.name}")
    return out


def overflowed(values: Shaped[np.ndarray, "..."], out: Shaped[np.ndarray, "..."]) -> bool:
    """Whether a finite value became infinite in `out`, a copy of `values` in another dtype."""
    if jnp.finfo(values.dtype).max <= jnp.finfo(out.dtype).max:
        return False
    flat = out.ravel(order="K")  # the order in memory: no copy of a transposed matrix
    if not any(np.isinf(flat[i : i + BLOCK]).any() for i in range(0, flat.size, BLOCK)):
        return False
    return bool(np.isfinite(values[np.isinf(out)]).any())
