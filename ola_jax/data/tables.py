"""Tables of records: a file or a folder in any of the known formats, read one record at a time."""

import bisect
import dataclasses
import glob
import itertools
import pathlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from ola_jax.data.json_table import open_json, read_head
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.errors import OlaError

TAR_MAGIC = (257, b"ustar")  # position in a tar file, and what stands there
YAML_SUFFIXES = (".yaml", ".yml")


@runtime_checkable
class RecordTable(Protocol):
    """Records by number. Tables may be pickled, and read by several threads at the same time."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        """Returns a record, or the reason why it is none; raises OlaError if the file cannot be read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Concatenated:
    """Tables one after another."""

    tables: Sequence[RecordTable]
    ends: list[int] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", list(itertools.accumulate(map(len, self.tables))))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        number = bisect.bisect_right(self.ends, index)
        return self.tables[number][index - (self.ends[number - 1] if number else 0)]


@dataclasses.dataclass(frozen=True, eq=False)
class Selected:
    """Some records of a table, in an order of their own."""

    table: RecordTable
    indices: Int64[np.ndarray, "_"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        return self.table[self.indices[index].item()]


def open_records(path: str, *, split: str = "train", seed: int = 0) -> RecordTable:
    """The records of a file or a folder, whose format is recognized by its content.

    A file of JSON (an array), JSON Lines, Parquet or tar (webdataset), or a mixture in YAML; a folder of
    prepared shards, or of Parquet or tar files; or a pattern such as `data/train-*.parquet`, whose files
    follow each other in the order of their names. `split` is that of prepared shards, `seed` that of the
    random choices of a mixture. Raises OlaError for anything else.
    """
    place = pathlib.Path(path)
    try:
        is_folder, is_file = place.is_dir(), place.exists()
    except (OSError, ValueError):
        is_folder, is_file = False, False
    if is_folder:
        return _open_folder(place, split)
    if not is_file and glob.has_magic(path):
        files = sorted(glob.glob(path))
        if not files:
            raise OlaError(f"{path}: no file has a name of this pattern")
        return Concatenated([open_records(file, split=split, seed=seed) for file in files])
    if path.lower().endswith(YAML_SUFFIXES):
        from ola_jax.data.mixtures import open_mixture  # which opens the tables that it names

        return open_mixture(path, seed=seed)
    head = read_head(path)
    if head.startswith(b"PAR1"):
        from ola_jax.data.parquet import ParquetTable  # only where it is needed: it is a large library

        return ParquetTable.open(path)
    begin, magic = TAR_MAGIC
    if head[begin : begin + len(magic)] == magic:
        from ola_jax.data.tar import TarTable

        return TarTable.open(path)
    return open_json(path)


def _open_folder(folder: pathlib.Path, split: str) -> RecordTable:
    if (folder / "dataset_info.json").is_file():
        from ola_jax.data.shards import ShardTable

        return ShardTable.open(str(folder), split)
    for suffix in (".parquet", ".tar"):
        if files := sorted(folder.glob(f"*{suffix}")):
            return Concatenated([open_records(str(file)) for file in files])
    raise OlaError(
        f"{folder}: a folder without dataset_info.json, .parquet or .tar files; expected prepared shards, "
        "Parquet or tar files, or the path of a file of records"
    )
