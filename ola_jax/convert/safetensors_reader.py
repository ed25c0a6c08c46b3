"""Released checkpoints, read tensor by tensor from safetensors files.

A checkpoint is a dict from key to `Tensor`: shape and dtype are known at once, the values are read
on demand.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ola_jax import json_files
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # of safetensors: those of weights
_WIDE = {"F64": "float64"}  # adapters may also have it


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file, not yet read."""

    shape: tuple[int, ...]
    dtype: str  # numpy's name; the file's own where weights cannot have it
    file: pathlib.Path
    read: Callable[[], HostArray]

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def read_safetensors(directory: pathlib.Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    If both exist the single file is read, as transformers does.
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
            what = (
                f"lacks {absent[0]!r}, which {INDEX} lists for it"
                if absent
                else f"holds {extra[0]!r}, which {INDEX} does not list for it"
            )
            raise OlaError(f"{directory / name}: {what}; download the checkpoint again")
        tensors.update(shard)
    return tensors


def open_safetensors(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of one file, its header checked.

    The library checks header, shapes and offsets. The values are then read by offset: the library
    would map the file, and every mapped page that was touched counts as this process's memory.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json_files.parse_unique(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise OlaError(f"{file}: not a complete safetensors file ({error}); download it again") from error
    header.pop("__metadata__", None)
    return {key: _tensor(file, 8 + length, entry) for key, entry in header.items()}


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file of a released checkpoint; OlaError if there is none."""
    if not file.exists():
        raise OlaError(f"{file}: no such file; expected a released checkpoint in Hugging Face's layout")
    values = json_files.read_object(file)
    if values.get("format") == "ola_jax":
        raise OlaError(f"{file.parent}: already an ola_jax checkpoint; expected a released PyTorch one")
    return values


def check_weight_dtype(key: str, tensor: Tensor) -> None:
    """Raises OlaError if the tensor's dtype is not one of DTYPES."""
    if tensor.dtype not in DTYPES.values():
        raise OlaError(
            f"{tensor.file}: {key} has dtype {tensor.dtype}; expected float32, float16 or bfloat16 weights"
        )


def _tensor(file: pathlib.Path, data: int, entry: dict[str, Any]) -> Tensor:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = (DTYPES | _WIDE).get(entry["dtype"], entry["dtype"])

    def read() -> HostArray:
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        values = np.empty(shape, kind)
        with file.open("rb") as stream:
            stream.seek(data + begin)
            count = stream.readinto(values.reshape(-1).view(np.uint8).data) if values.size else 0
        if count != end - begin:
            raise OlaError(f"{file}: ended early while it was read; download it again")
        return values

    return Tensor(shape, dtype, file, read)


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    try:
        files = json_files.parse_unique(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(files.values())
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise OlaError(f"{index}: no readable weight_map ({error!r}); download it again") from error
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise OlaError(f"{index}: shard name {name!r} is not the name of a file beside it; refused")
    return files
