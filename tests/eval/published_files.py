"""Made-up files in exactly the columns of the published ones."""

import base64
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.items import Item


def png(seed: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """An encoded picture of noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def base64_png(seed: int) -> str:
    """A picture as TSV files hold it."""
    return base64.b64encode(png(seed)).decode()


def write_tsv(file: pathlib.Path, rows: Sequence[Mapping[str, object]]) -> pathlib.Path:
    """A TSV file; missing cells are empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    quoted = lambda value: (
        '"' + str(value).replace('"', '""') + '"' if set('"\n') & set(str(value)) else str(value)
    )
    lines = ["\t".join(names), *("\t".join(quoted(row.get(n, "")) for n in names) for row in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_parquet(file: pathlib.Path, rows: Sequence[Mapping[str, Any]], group: int = 2) -> pathlib.Path:
    """A parquet file with row groups of `group` rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=group)
    return file


def stored(data: bytes) -> dict[str, Any]:
    """Media as Hugging Face's data sets store them."""
    return {"bytes": data, "path": None}


def write_json(file: pathlib.Path, value: object) -> pathlib.Path:
    """A JSON file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def read_items(task: str, folder: pathlib.Path) -> list[Item]:
    """The items of a benchmark in its published files."""
    return benchmark(task).read(folder).items
