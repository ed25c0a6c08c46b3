"""Safetensors files of known shapes, written one tensor at a time and in any order."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
from safetensors import SafetensorError, safe_open

from ola_jax.convert.safetensors_reader import DTYPES, INDEX
from ola_jax.errors import OlaError
from ola_jax.typing import HostArray, Shaped

_NAMES = {name: code for code, name in DTYPES.items()}  # "bfloat16": "BF16"


class TensorSpec(NamedTuple):
    """The shape and dtype of a tensor that is to be written."""

    shape: tuple[int, ...]
    dtype: str  # numpy's name

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class ShardWriter:
    """Safetensors files in `directory` as Hugging Face lays them out: one, or shards and their index.

    `tensors` has the shape and dtype of each key. Every file gets its full size at once, and each
    tensor is written to its own offset, so that none is held in memory. Raises OlaError for a
    `max_shard_size` that is not a size such as "5GB".
    """

    def __init__(self, directory: pathlib.Path, tensors: Mapping[str, TensorSpec], max_shard_size: str):
        try:
            split = huggingface_hub.split_state_dict_into_shards_factory(
                dict(tensors),
                get_storage_size=lambda spec: spec.nbytes,
                filename_pattern="model{suffix}.safetensors",
                max_shard_size=max_shard_size,
            )
        except ValueError as error:
            raise OlaError(
                f"--max-shard-size {max_shard_size}: not a size; expected one such as 5GB"
            ) from error
        self._specs, self._left = dict(tensors), set(tensors)
        self._offsets: dict[str, tuple[str, int]] = {}  # the file, and the offset in it
        self._files: dict[str, pathlib.Path] = {}
        for name, keys in split.filename_to_tensors.items():
            self._files[name] = directory / name
            self._begin(name, keys)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (directory / INDEX).write_text(text, encoding="utf-8")

    def write(self, key: str, values: Shaped[HostArray, "..."]) -> None:
        """Writes one tensor; its shape and dtype are those of its TensorSpec."""
        if (values.shape, values.dtype.name) != self._specs[key] or key not in self._left:
            raise ValueError(f"{key}: {values.dtype}{list(values.shape)} does not go here")
        name, offset = self._offsets[key]
        with self._files[name].open("r+b") as stream:
            stream.seek(offset)
            stream.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        self._left.remove(key)

    def close(self) -> None:
        """Checks that every tensor was written, and that safetensors can read every file's header."""
        if self._left:
            raise ValueError(f"not written: {sorted(self._left)[:5]}")
        for file in self._files.values():
            try:
                with safe_open(file, framework="numpy"):
                    pass
            except SafetensorError as error:
                raise OlaError(f"{file}: was not written completely ({error})") from error

    def _begin(self, name: str, keys: list[str]) -> None:
        header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
        offset = 0
        # Wide dtypes first, as safetensors itself does, so that every tensor is aligned to its width.
        for key in sorted(keys, key=lambda key: -np.dtype(self._specs[key].dtype).itemsize):
            spec = self._specs[key]
            end = offset + spec.nbytes
            header[key] = {
                "dtype": _NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [offset, end],
            }
            self._offsets[key] = (name, offset)
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        self._offsets |= {key: (name, start + self._offsets[key][1]) for key in keys}
        with self._files[name].open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(start + offset)
