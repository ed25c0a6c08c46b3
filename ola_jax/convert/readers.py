"""Reading released checkpoints tensor by tensor: safetensors, OpenAI's Whisper file, the BEATs file.

A checkpoint is a dict from key to `Tensor`: shape and dtype are known at once, the values are read
when they are asked for.
"""

import dataclasses
import json
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes  # also teaches numpy the name "bfloat16", which safetensors asks it for
import numpy as np
from safetensors import SafetensorError, safe_open

from ola_jax.convert.names import BEATS, BEATS_FILE, WHISPER, WHISPER_FILE
from ola_jax.errors import OlaError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # others keep their name


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file, not yet read."""

    shape: tuple[int, ...]
    dtype: str  # as numpy calls it
    file: pathlib.Path
    read: Callable[[], np.ndarray]


def read_safetensors(directory: pathlib.Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that `model.safetensors.index.json` lists.

    With both there the single file is read, as transformers does.
    """
    index, single = directory / INDEX, directory / SINGLE
    if single.is_file():
        return _open_safetensors(single)
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
        shard = _open_safetensors(directory / name)
        listed = {key for key, file in files.items() if file == name}
        if listed != shard.keys():
            absent, extra = sorted(listed - shard.keys()), sorted(shard.keys() - listed)
            what = f"lacks {absent[0]!r}, which" if absent else f"holds {extra[0]!r}, which"
            verb = "lists for it" if absent else "does not list for it"
            raise OlaError(f"{directory / name}: {what} {INDEX} {verb}; download the checkpoint again")
        tensors.update(shard)
    return tensors


def read_whisper(file: pathlib.Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """`dims` of OpenAI's Whisper format (None if absent), and the encoder's tensors by released key."""
    content = _load_pickle(file)
    state = content.get("model_state_dict", content)
    encoder = _tensors(file, state, WHISPER_FILE, WHISPER)
    if not encoder:
        raise OlaError(
            f"{file}: not a Whisper checkpoint: found {_some_keys(content)}, expected "
            "{dims, model_state_dict} with encoder.* in OpenAI's format"
        )
    return _section(file, content, "dims"), encoder


def read_beats(file: pathlib.Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """`cfg` of the BEATs format (None if absent), and its tensors by released key."""
    content = _load_pickle(file)
    state = content.get("model", content)
    if not isinstance(state, dict) or "patch_embedding.weight" not in state:
        raise OlaError(
            f"{file}: not a BEATs checkpoint: found {_some_keys(content)}, expected {{cfg, model}} with "
            "patch_embedding.weight"
        )
    return _section(file, content, "cfg"), _tensors(file, state, BEATS_FILE, BEATS)


def _weight_map(index: pathlib.Path) -> dict[str, str]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(files.values())
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise OlaError(f"{index}: no readable weight_map ({error!r}); download it again") from error
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise OlaError(f"{index}: shard name {name!r} is not the name of a file beside it; refused")
    return files


def _open_safetensors(file: pathlib.Path) -> dict[str, Tensor]:
    try:
        handle = safe_open(file, framework="numpy")
        slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118  not a dict
        return {
            key: Tensor(
                tuple(part.get_shape()),
                _DTYPES.get(part.get_dtype(), part.get_dtype()),
                file,
                lambda key=key: handle.get_tensor(key),
            )
            for key, part in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise OlaError(f"{file}: not a whole safetensors file ({error}); download it again") from error


def _load_pickle(file: pathlib.Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise OlaError(f"{file}: reading .pt files needs PyTorch: pip install 'ola_jax[convert]'") from error
    if not file.is_file():
        raise OlaError(f"{file}: no such file")
    try:
        with file.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        reason = re.search(r"GLOBAL (\S+)", str(error))
        asks = f"it asks for {reason[1]}" if reason else "it is damaged, or asks for more"
        raise OlaError(
            f"{file}: refused: expected tensors and plain values only, but {asks}; loading such a file can "
            "run code: get it from its official source, or save it again as a plain state dict"
        ) from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise OlaError(
            f"{file}: not a whole PyTorch file ({_first_line(error)}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise OlaError(f"{file}: found a {type(content).__name__}, expected a dict of tensors")
    return content


def _section(file: pathlib.Path, content: dict[str, Any], name: str) -> dict[str, Any] | None:
    section = content.get(name)
    if section is not None and not isinstance(section, dict):
        raise OlaError(f"{file}: {name} is {section!r:.60}, expected a dict")
    return section


def _tensors(file: pathlib.Path, state: Any, prefix: str, released: str) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        return {}
    tensors = {}
    for key, value in state.items():
        if isinstance(key, str) and key.startswith(prefix) and hasattr(value, "untyped_storage"):
            dtype = str(value.dtype).removeprefix("torch.")
            tensors[released + key.removeprefix(prefix)] = Tensor(
                tuple(value.shape), dtype, file, lambda value=value: _to_numpy(value)
            )
    return tensors


def _to_numpy(value: Any) -> np.ndarray:
    import torch

    if value.dtype == torch.bfloat16:  # numpy's own types lack it: hand the bits over
        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.contiguous().numpy()


def _some_keys(content: dict) -> str:
    names = [str(key) for key in content]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
