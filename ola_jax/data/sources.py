"""Sources of records, and their checks when an iterator over them is made."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

from ola_jax.batch import Budget
from ola_jax.data import record_files
from ola_jax.data.record_files import Malformed
from ola_jax.errors import OlaError, one_line, quote, shortened


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of records."""

    records: str  # path of the JSON file
    root: str | None = None  # folder that relative media paths are below; None: the working folder
    weight: float | None = None  # share of the samples; None: by the number of its records
    marks_are_text: bool = False  # "<image>" and "<speech>" are text in records without such media


def load_tables(sources: Sequence[Source]) -> list[list[dict[str, Any] | Malformed]]:
    """The records of each source. Raises OlaError for sources that cannot be used or mixed."""
    if isinstance(sources, Source | str) or not isinstance(sources, Sequence):
        raise OlaError(f"sources: expected a sequence of Source, found {quote(sources)}")
    if not sources:
        raise OlaError("sources: none given; expected at least one file of records")
    for source in sources:
        if not isinstance(source, Source):
            raise OlaError(f"sources: expected Source, found {quote(source)}")
        if source.weight is not None:
            _check_weight(source)
    given = [source for source in sources if source.weight is not None]
    if given and len(given) < len(sources):
        bare = next(source for source in sources if source.weight is None)
        raise OlaError(
            f"sources: {_name(given[0])} has a weight ({given[0].weight}) and {_name(bare)} has none; give a "
            "weight to all of them or to none"
        )
    return [_table(source) for source in sources]


def check_sizes(budget: Budget, **sizes: Any) -> None:
    """Raise OlaError unless the budget has room and each size is a whole number in its range."""
    if not isinstance(budget, Budget):
        raise OlaError(f"budget: expected a Budget, found {quote(budget)}")
    for name, value in dataclasses.asdict(budget).items():
        _check_int(f"budget: {name}", value, int(name == "tokens"))
    if budget.window_patches % 4 or (budget.windows and not budget.window_patches):
        raise OlaError(
            f"budget: {budget.windows} windows of {budget.window_patches} patches; expected a multiple of 4 "
            "patches (more than 0 with windows)"
        )
    ranges = {"batch_rows": 1, "epochs": 1, "process_count": 1, "open_rows": 1}
    for name, value in sizes.items():
        if value is not None or name not in ("epochs", "open_rows"):
            _check_int(name, value, ranges.get(name, 0))
    if sizes["seed"] >= 2**32:
        raise OlaError(f"seed is {quote(sizes['seed'])}; expected 0 to 2**32 - 1")
    if sizes["process_index"] >= sizes["process_count"]:
        raise OlaError(
            f"process_index is {sizes['process_index']} of {sizes['process_count']} processes; expected 0 to "
            f"{sizes['process_count'] - 1}"
        )


def _check_int(name: str, value: Any, least: int) -> None:
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise OlaError(f"{name} is {quote(value)}; expected a whole number, {least} or more")


def _check_weight(source: Source) -> None:
    number = isinstance(source.weight, int | float) and not isinstance(source.weight, bool)
    if not number or not math.isfinite(source.weight) or source.weight <= 0:
        raise OlaError(
            f"{_name(source)}: weight {quote(source.weight)}; expected more than 0, or leave it out"
        )


def _table(source: Source) -> list[dict[str, Any] | Malformed]:
    for name, kind in (("root", str | None), ("marks_are_text", bool)):
        if not isinstance(value := getattr(source, name), kind):
            raise OlaError(f"{_name(source)}: {name} is {quote(value)}, expected {_KINDS[name]}")
    table = record_files.load(source.records)
    if not table:
        raise OlaError(f"{source.records}: no records in it")
    return table


_KINDS = {"root": "a folder", "marks_are_text": "True or False"}


def _name(source: Source) -> str:
    return shortened(one_line(str(source.records)), 120)
