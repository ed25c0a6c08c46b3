"""Reading the fields of a JSON object: of the expected kind and in range, or an error that names them."""

import json
from typing import Any

from ola_jax.errors import quote
from ola_jax.serve.api_error import invalid


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that a request's body is. Raises ApiError for anything else."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError:  # not UTF-8, not JSON, or a number of thousands of digits
        raise invalid("the body is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise invalid("the body is not a JSON object")
    return value


def number(
    value: Any, name: str, low: int | float, high: int | float, *, whole: bool = False, above: bool = False
) -> int | float | None:
    """The number, or None for null; from `low` (or, with `above`, more than it) to `high`."""
    if value is None:
        return None
    kind = "a whole number" if whole else "a number"
    good = not isinstance(value, bool) and isinstance(value, int if whole else int | float)
    if not good or not low <= value <= high or (above and value == low):
        start = f"above {low:g} and at most" if above else f"from {low:.15g} to"
        raise invalid(f"expected {kind} {start} {high:.15g}, found {quote(value)}", name)
    return value


def integer(value: Any, name: str, low: int, high: int) -> int | None:
    """The whole number, or None for null."""
    found = number(value, name, low, high, whole=True)
    return None if found is None else int(found)


def flag(value: Any, name: str) -> bool:
    """The truth value; null is False."""
    if value is not None and not isinstance(value, bool):
        raise invalid(f"expected true or false, found {quote(value)}", name)
    return bool(value)


def text(value: Any, name: str, most: int) -> str:
    """The text, of at most so many characters. Raises ApiError for lone surrogates."""
    if not isinstance(value, str):
        raise invalid(f"expected text, found {quote(value)}", name)
    if len(value) > most:
        raise invalid(f"{len(value)} characters, at most {most} are taken", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"character {error.start + 1} is half of a surrogate pair", name) from None
    return value


def object_of(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    """The object, which has no other keys than `known`."""
    if not isinstance(value, dict):
        raise invalid(f"expected an object, found {quote(value)}", name)
    for key in value:
        if key not in known and value[key] is not None:
            where = f"{name}.{key}" if len(key) <= 80 else name
            raise invalid(f"{quote(key)} is not supported; expected {', '.join(known)}", where)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
