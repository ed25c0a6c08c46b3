"""Sources of records, and the checks when an iterator over them is created."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

from ola_jax.data import record_files
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.errors import OlaError, one_line, quote, shortened
from ola_jax.row import Budget


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of records."""

    records: str  # path of the JSON file
    root: str | None = None  # folder of relative media paths; None: the working directory
    weight: float | None = None  # share of the samples; None: its number of records
    marks_are_text: bool = False  # in records without such media, "<image>" and "<speech>" are text


def load_tables(sources: Sequence[Source]) -> list[list[JsonRecord | Malformed]]:
    """Loads the records of each source. Raises OlaError for sources that cannot be used or mixed."""
    if isinstance(sources, Source | str) or not isinstance(sources, Sequence):
        raise OlaError(f"sources: expected a sequence of Source, found {quote(sources)}")
    if not sources:
        raise OlaError("sources is empty; expected at least one Source")
    for source in sources:
        if not isinstance(source, Source):
            raise OlaError(f"sources: expected Source, found {quote(source)}")
        _check_weight(source)
    weighted = [source for source in sources if source.weight is not None]
    if weighted and len(weighted) < len(sources):
        other = next(source for source in sources if source.weight is None)
        raise OlaError(
            f"sources: {_name(weighted[0])} has a weight ({weighted[0].weight}) and {_name(other)} has none; "
            "give a weight to all of them or to none"
        )
    return [_load_table(source) for source in sources]


def check_sizes(
    budget: Budget, *, seed: int, process_index: int, process_count: int, **sizes: int | None
) -> None:
    """Raises OlaError unless the budget has room and each size is an integer in its range."""
    if not isinstance(budget, Budget):
        raise OlaError(f"budget: expected a Budget, found {quote(budget)}")
    for name, value in dataclasses.asdict(budget).items():
        _check_int(f"budget: {name}", value, int(name == "tokens"))
    if budget.window_patches % 4 or (budget.windows and not budget.window_patches):
        raise OlaError(
            f"budget: {budget.windows} windows of {budget.window_patches} patches; expected a multiple of 4 "
            "patches, above 0 if there are windows"
        )
    at_least = {"batch_rows": 1, "epochs": 1, "process_count": 1}
    sizes |= {"seed": seed, "process_index": process_index, "process_count": process_count}
    for name, value in sizes.items():
        if value is not None or name != "epochs":
            _check_int(name, value, at_least.get(name, 0))
    if seed >= 2**32:
        raise OlaError(f"seed is {quote(seed)}; expected 0 to 2**32 - 1")
    if process_index >= process_count:
        raise OlaError(
            f"process_index is {process_index} of {process_count} processes; expected 0 to "
            f"{process_count - 1}"
        )


def _check_int(name: str, value: Any, least: int) -> None:
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise OlaError(f"{name} is {quote(value)}; expected a whole number, {least} or more")


def _check_weight(source: Source) -> None:
    weight = source.weight
    if weight is None:
        return
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not math.isfinite(weight) or weight <= 0:
        raise OlaError(
            f"{_name(source)}: weight is {quote(weight)}; expected a number above 0, or none at all"
        )


def _load_table(source: Source) -> list[JsonRecord | Malformed]:
    if not isinstance(source.root, str | None):
        raise OlaError(f"{_name(source)}: root is {quote(source.root)}; expected the path of a folder")
    if not isinstance(source.marks_are_text, bool):
        raise OlaError(
            f"{_name(source)}: marks_are_text is {quote(source.marks_are_text)}; expected True or False"
        )
    table = record_files.load(source.records)
    if not table:
        raise OlaError(f"{source.records}: the file has no records; expected at least one")
    return table


def _name(source: Source) -> str:
    return shortened(one_line(str(source.records)), 120)
