"""Writing safetensors files of known shapes, the tensors coming in any order and one at a time."""

import json
import pathlib
from collections.abc import Mapping

import huggingface_hub
import numpy as np
from safetensors import SafetensorError, safe_open

from ola_jax.convert.safetensors_reader import DTYPES, INDEX
from ola_jax.errors import OlaError
from ola_jax.typing import Shaped

_NAMES = {name: code for code, name in DTYPES.items()}  # "bfloat16": "BF16"
Spec = tuple[tuple[int, ...], str]  # shape and dtype, as numpy calls it


class ShardWriter:
    """Safetensors files in `directory` as Hugging Face lays them out: one, or shards and their index.

    `tensors` has the shape and dtype of each key. Every file gets its full size at once, and each
    tensor goes to its own place, so that nothing need be kept. Raises OlaError for a
    `max_shard_size` that is not a size such as "5GB".
    """

    def __init__(self, directory: pathlib.Path, tensors: Mapping[str, Spec], max_shard_size: str):
        try:
            split = huggingface_hub.split_state_dict_into_shards_factory(
                dict(tensors),
                get_storage_size=_nbytes,
                filename_pattern="model{suffix}.safetensors",
                max_shard_size=max_shard_size,
            )
        except ValueError as error:
            raise OlaError(
                f"--max-shard-size {max_shard_size}: not a size; expected one such as 5GB"
            ) from error
        self._specs, self._places, self._left = dict(tensors), {}, set(tensors)
        self._files = {}
        for name, keys in split.filename_to_tensors.items():
            self._files[name] = directory / name
            self._begin(name, keys)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            (directory / INDEX).write_text(text, encoding="utf-8")

    def write(self, key: str, values: Shaped[np.ndarray, "..."]) -> None:
        """Writes one tensor, in the shape and dtype that it was announced with."""
        if (values.shape, values.dtype.name) != self._specs[key] or key not in self._left:
            raise ValueError(f"{key}: {values.dtype}{list(values.shape)} does not go here")
        name, offset = self._places[key]
        with self._files[name].open("r+b") as stream:
            stream.seek(offset)
            stream.write(memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
        self._left.remove(key)

    def close(self) -> None:
        """Checks that every tensor has come, and that safetensors reads every file's header."""
        if self._left:
            raise ValueError(f"not written: {sorted(self._left)[:5]}")
        for file in self._files.values():
            try:
                with safe_open(file, framework="numpy"):
                    pass
            except SafetensorError as error:
                raise OlaError(f"{file}: was not written whole ({error})") from error

    def _begin(self, name: str, keys: list[str]) -> None:
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        # Wide numbers first, as safetensors itself does: so all lie at multiples of their width.
        for key in sorted(keys, key=lambda key: -np.dtype(self._specs[key][1]).itemsize):
            shape, dtype = self._specs[key]
            end = offset + _nbytes(self._specs[key])
            header[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
            self._places[key] = (name, offset)
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        self._places |= {key: (name, start + self._places[key][1]) for key in keys}
        with self._files[name].open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(start + offset)


def _nbytes(spec: Spec) -> int:
    shape, dtype = spec
    return int(np.prod(shape)) * np.dtype(dtype).itemsize
