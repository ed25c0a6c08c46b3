"""Sources of records, and the checks when an iterator over them is created."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

from ola_jax.data.rewriting import Rewritten
from ola_jax.data.tables import RecordTable, open_records
from ola_jax.errors import OlaError, one_line, quote, shortened
from ola_jax.row import Budget


@dataclasses.dataclass(frozen=True)
class Source:
    """One file or folder of records, as `tables.open_records` takes it."""

    records: str  # path of a file of records, of a folder of shards, or a pattern of names
    root: str | None = None  # folder of relative media paths; None: the working directory
    weight: float | None = None  # share of the samples; None: its number of records
    marks_are_text: bool = False  # in records without such media, "<image>" and "<speech>" are text
    rewrite: tuple[tuple[str, str], ...] = ()  # beginnings of media paths, and what replaces them
    bgr: bool = False  # five of Ola's sets of frames with the colours that the original trains on
    split: str = "train"  # of prepared shards; parts such as "train[:10%]" as well


def load_tables(sources: Sequence[Source]) -> list[RecordTable]:
    """Opens the records of each source. Raises OlaError for sources that cannot be used or mixed."""
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
    return [open_table(source) for source in sources]


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


def open_table(source: Source) -> RecordTable:
    """The records of a source, with its paths rewritten. Raises OlaError for one that cannot be used."""
    _check_options(source)
    table = open_records(str(source.records), split=source.split)
    if not len(table):
        raise OlaError(f"{source.records}: the file has no records; expected at least one")
    if source.rewrite or source.bgr:
        return Rewritten(table, source.rewrite, source.bgr)
    return table


def _check_options(source: Source) -> None:
    name = _name(source)
    if not isinstance(source.root, str | None):
        raise OlaError(f"{name}: root is {quote(source.root)}; expected the path of a folder")
    for field in ("marks_are_text", "bgr"):
        if not isinstance(value := getattr(source, field), bool):
            raise OlaError(f"{name}: {field} is {quote(value)}; expected True or False")
    if not isinstance(source.split, str) or not source.split:
        raise OlaError(
            f"{name}: split is {quote(source.split)}; expected the name of a split, such as 'train'"
        )
    rewrite = source.rewrite
    pairs = rewrite if isinstance(rewrite, tuple | list) else [rewrite]
    for pair in pairs:
        texts = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        if not texts or not pair[0]:
            raise OlaError(
                f"{name}: rewrite holds {quote(pair)}; expected pairs of the beginning of a path, and what "
                "replaces it"
            )


def _name(source: Source) -> str:
    return shortened(one_line(str(source.records)), 120)
