"""Casting values, which is refused if a finite value would become infinite."""

import pathlib

import jax.numpy as jnp
import numpy as np

from ola_jax.convert.layouts import copy
from ola_jax.errors import OlaError
from ola_jax.typing import DTypeLike, HostArray, Shaped

BLOCK = 2**22  # values that are examined together: the boolean results take memory too


def cast(
    values: Shaped[HostArray, "..."], dtype: DTypeLike, *, key: str, file: pathlib.Path
) -> Shaped[HostArray, "..."]:
    """Casts `values` to `dtype`. Raises OlaError if one is beyond its range."""
    with np.errstate(over="ignore"):
        out = values.astype(jnp.dtype(dtype))
    if overflowed(values, out):
        raise OlaError(f"{file}: {key} has values beyond the range of {out.dtype.name}")
    return out


def cast_into(
    out: Shaped[HostArray, "..."], values: Shaped[HostArray, "..."], *, key: str, file: pathlib.Path
) -> None:
    """Assigns out[...] = values. Raises OlaError if one is beyond the range of the dtype of `out`."""
    with np.errstate(over="ignore"):
        copy(values, out)
    if overflowed(values, out):
        raise OlaError(
            f"{file}: {key} has values beyond the range of {out.dtype.name}; choose another --dtype"
        )


def overflowed(values: Shaped[HostArray, "..."], out: Shaped[HostArray, "..."]) -> bool:
    """True if a finite value became infinite in `out`, a copy of `values` in another dtype."""
    if jnp.finfo(values.dtype).max <= jnp.finfo(out.dtype).max:
        return False
    flat = out.ravel(order="K")  # the order in memory: no copy of a transposed matrix
    if not any(np.isinf(flat[i : i + BLOCK]).any() for i in range(0, flat.size, BLOCK)):
        return False
    return bool(np.isfinite(values[np.isinf(out)]).any())
