"""Reading released checkpoints tensor by tensor from safetensors files.

A checkpoint is a dict from key to `Tensor`: shape and dtype are known at once, the values are read
when they are asked for.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ola_jax.errors import OlaError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # of safetensors: those of weights
_WIDE = {"F64": "float64"}  # those of adapters too


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file, not yet read."""

    shape: tuple[int, ...]
    dtype: str  # as numpy calls it; one that weights cannot have keeps its file's name for it
    file: pathlib.Path
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def read_safetensors(directory: pathlib.Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    With both there the single file is read, as transformers does.
    """
    index, single = directory / INDEX, directory / SINGLE
    if single.is_file():
        return open_safetensors(single)
    if not index.is_file():
        names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        found = ", ".join(names[:5]) or "nothing"
        raise OlaError(f"{directory}: no weights: found {found}, expected {SINGLE} or {INDEX}")
    files = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        if not (directory / name).is_file():
            raise OlaError(f"{directory / name}: no such file, but {INDEX} lists it; download it again")
    for name in sorted(set(files.values())):
        shard = open_safetensors(directory / name)
        listed = {key for key, file in files.items() if file == name}
        if listed != shard.keys():
            absent, extra = sorted(listed - shard.keys()), sorted(shard.keys() - listed)
            what = f"lacks {absent[0]!r}, which" if absent else f"holds {extra[0]!r}, which"
            verb = "lists for it" if absent else "does not list for it"
            raise OlaError(f"{directory / name}: {what} {INDEX} {verb}; download the checkpoint again")
        tensors.update(shard)
    return tensors


def open_safetensors(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of one file, its header checked.

    The library checks header, shapes and offsets. The values are then read by offset: its own
    reader maps the file, and all that was ever touched of a map counts as this process's memory.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = loads_unique(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise OlaError(f"{file}: not a whole safetensors file ({error}); download it again") from error
    header.pop("__metadata__", None)
    return {key: _tensor(file, 8 + length, entry) for key, entry in header.items()}


def loads_unique(text: str | bytes) -> Any:
    """JSON in which a key that stands twice in an object is a ValueError: which one is meant?"""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} stands twice")
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("too many brackets within brackets") from error


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """A JSON object from a file; OlaError if there is none."""
    try:
        values = loads_unique(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OlaError(
            f"{file}: no such file; expected a released checkpoint in Hugging Face's layout"
        ) from error
    except (ValueError, OSError) as error:
        raise OlaError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise OlaError(f"{file}: expected a JSON object, found a {type(values).__name__}")
    if values.get("format") == "ola_jax":
        raise OlaError(f"{file.parent}: already an ola_jax checkpoint; expected a released PyTorch one")
    return values


def check_dtype(key: str, tensor: Tensor) -> None:
    """Raises OlaError for a dtype that weights cannot have."""
    if tensor.dtype not in DTYPES.values():
        raise OlaError(
            f"{tensor.file}: {key} has dtype {tensor.dtype}; expected float32, float16 or bfloat16 weights"
        )


def _tensor(file: pathlib.Path, data: int, entry: dict[str, Any]) -> Tensor:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = (DTYPES | _WIDE).get(entry["dtype"], entry["dtype"])

    def read() -> np.ndarray:
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        values = np.empty(shape, kind)
        with file.open("rb") as stream:
            stream.seek(data + begin)
            count = stream.readinto(memoryview(values.reshape(-1).view(np.uint8))) if values.size else 0
        if count != end - begin:
            raise OlaError(f"{file}: ended while it was read; download it again")
        return values

    return Tensor(shape, dtype, file, read)


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    try:
        files = loads_unique(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(files.values())
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise OlaError(f"{index}: no readable weight_map ({error!r}); download it again") from error
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise OlaError(f"{index}: shard name {name!r} is not the name of a file beside it; refused")
    return files
