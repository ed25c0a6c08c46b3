"""Numbers of a released config, checked."""

from collections.abc import Mapping
from typing import Any

from ola_jax.errors import OlaError

NO_LIMIT = 2**31 - 1  # tokens
LARGEST = 2**24  # of any size; products of sizes stay within 64 bits
MOST_LAYERS = 10_000


def read_integer(values: Mapping[str, Any], key: str, where: str) -> int:
    """A positive integer. Raises OlaError naming `where` and the key."""
    value = values.get(key)
    limit = {"tokenizer_model_max_length": NO_LIMIT, "num_hidden_layers": MOST_LAYERS}.get(key, LARGEST)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limit:
        return value
    too_large = isinstance(value, int) and value > limit
    raise _wrong_number(values, key, where, f" of at most {limit}" if too_large else "")


def read_number(values: Mapping[str, Any], key: str, where: str) -> float:
    """A positive number. Raises OlaError naming `where` and the key."""
    value = values.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return float(value)
    raise _wrong_number(values, key, where)


def _wrong_number(values: Mapping[str, Any], key: str, where: str, limit: str = "") -> OlaError:
    found = f"{values[key]!r:.40}" if key in values else "nothing"
    return OlaError(f"{where}: {key}: found {found}, expected a positive number{limit}")


def check_multiple(width: int, heads: int, names: str) -> None:
    """Raises OlaError, which begins with `names`, unless `width` is a multiple of `heads`."""
    if heads <= 0 or width % heads:
        raise OlaError(f"{names}: {width} is not a multiple of {heads}")
