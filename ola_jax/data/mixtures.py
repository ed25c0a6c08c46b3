"""Mixtures of LLaVA: a YAML file that names files of records, and how many are taken of each."""

import dataclasses
import math
import pathlib
import re
from typing import Any, Literal, get_args

import numpy as np

from ola_jax.data.tables import Concatenated, RecordTable, Selected, open_records
from ola_jax.errors import OlaError, first_line, quote, require

Strategy = Literal["all", "first", "end", "random"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of a mixture."""

    path: str
    strategy: Strategy = "all"
    amount: float | None = None  # records, or per cent of them
    is_percent: bool = False

    def choose(self, count: int, seed: int) -> np.ndarray:
        """The numbers of the records that are taken, of `count`, in order."""
        if self.amount is None:
            return np.arange(count)
        wanted = min(math.ceil(self.amount * count / 100) if self.is_percent else int(self.amount), count)
        match self.strategy:
            case "first":
                return np.arange(wanted)
            case "end":
                return np.arange(count - wanted, count)
            case _:
                return np.sort(np.random.default_rng(seed).permutation(count)[:wanted])


def open_mixture(path: str, *, seed: int = 0) -> RecordTable:
    """The records of all files of a mixture, one file after another; `seed` decides those taken at random."""
    tables: list[RecordTable] = []
    for number, part in enumerate(read_mixture(path)):
        table = open_records(part.path, seed=seed)
        chosen = part.choose(len(table), seed + number)
        tables.append(table if part.strategy == "all" else Selected(table, chosen))
    return Concatenated(tables)


def read_mixture(path: str) -> list[Part]:
    """The files of a mixture: `datasets:`, a list of `json_path` and `sampling_strategy`.

    A strategy is all, first:N, end:N or random:N; N is a number of records, or a percentage such as 10%.
    Relative paths are below the folder of the YAML file. Raises OlaError naming the entry that is wrong.
    """
    require("data", "yaml")
    import yaml

    try:
        found = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OlaError(f"{path}: cannot be read as YAML ({first_line(error)})") from error
    entries = found.get("datasets") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise OlaError(f"{path}: expected 'datasets', a list of json_path and sampling_strategy")
    return [
        _part(entry, pathlib.Path(path).parent, f"{path}: datasets[{n}]") for n, entry in enumerate(entries)
    ]


def _part(entry: Any, folder: pathlib.Path, where: str) -> Part:
    if not isinstance(entry, dict) or not isinstance(file := entry.get("json_path"), str) or not file:
        raise OlaError(f"{where}: expected json_path and sampling_strategy, found {quote(entry)}")
    if unknown := entry.keys() - {"json_path", "sampling_strategy"}:
        raise OlaError(f"{where}: {quote(min(map(str, unknown)))} is not known; remove it")
    path, given = str(folder / file), entry.get("sampling_strategy", "all")
    if given == "all":
        return Part(path)
    match = re.fullmatch(r"(first|end|random):(\d+(?:\.\d+)?)(%?)", given) if isinstance(given, str) else None
    if not match or not float(match[2]) or ("." in match[2] and not match[3]):
        raise OlaError(
            f"{where}: sampling_strategy is {quote(given)}; expected all, or first:N, end:N or random:N with "
            "N above 0, a number of records or a percentage"
        )
    strategy = next(name for name in get_args(Strategy) if name == match[1])
    return Part(path, strategy, float(match[2]), bool(match[3]))
