"""Reading and writing PyTorch's own files (.pt, .pth, .bin): OpenAI's Whisper, BEATs, plain state dicts.

Only tensors and plain values are read: a pickle with anything else is refused.
"""

import functools
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ola_jax.convert.names import BEATS, BEATS_FILE, WHISPER, WHISPER_FILE
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.errors import OlaError, first_line
from ola_jax.typing import HostArray


def read_whisper(file: pathlib.Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Reads `dims` of OpenAI's Whisper format (None if absent), and the encoder's tensors by released key."""
    content = load(file)
    state = content.get("model_state_dict", content)
    encoder = read_state(file, state, prefix=WHISPER_FILE, released=WHISPER)
    if not encoder:
        raise OlaError(
            f"{file}: not a Whisper checkpoint: found {_some_keys(content)}, expected "
            "{dims, model_state_dict} with encoder.* in OpenAI's format"
        )
    return _section(file, content, "dims"), encoder


def read_whisper_decoder(file: pathlib.Path) -> tuple[dict[str, Any], dict[str, HostArray]]:
    """Reads `dims` of OpenAI's Whisper format and the decoder's arrays, by key without `decoder.`."""
    content = load(file)
    decoder = read_state(file, content.get("model_state_dict"), prefix="decoder.")
    dims = _section(file, content, "dims")
    if not decoder or dims is None:
        raise OlaError(
            f"{file}: no Whisper decoder: found {_some_keys(content)}, expected {{dims, model_state_dict}} "
            "with decoder.* in OpenAI's format"
        )
    return dims, {key: tensor.read() for key, tensor in decoder.items()}


def read_beats(file: pathlib.Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Reads `cfg` of the BEATs format (None if absent), and its tensors by released key."""
    content = load(file)
    state = content.get("model", content)
    if not isinstance(state, dict) or "patch_embedding.weight" not in state:
        raise OlaError(
            f"{file}: not a BEATs checkpoint: found {_some_keys(content)}, expected {{cfg, model}} with "
            "patch_embedding.weight"
        )
    return _section(file, content, "cfg"), read_state(file, state, prefix=BEATS_FILE, released=BEATS)


def read_state(
    file: pathlib.Path, state: object, *, prefix: str = "", released: str = ""
) -> dict[str, Tensor]:
    """The tensors of a state dict whose keys begin with `prefix`; it is replaced by `released`."""
    tensors = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        if isinstance(key, str) and key.startswith(prefix) and hasattr(value, "untyped_storage"):
            dtype = str(value.dtype).removeprefix("torch.")
            read = functools.partial(_to_numpy, value)
            tensors[released + key.removeprefix(prefix)] = Tensor(tuple(value.shape), dtype, file, read)
    return tensors


def load(file: pathlib.Path) -> dict[str, Any]:
    """The dict in a PyTorch file, its tensors mapped into memory where the format allows."""
    torch = import_torch(file)
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
            f"{file}: not a complete PyTorch file ({first_line(error)}); download it again"
        ) from error
    if not isinstance(content, dict):
        raise OlaError(f"{file}: found a {type(content).__name__}, expected a dict of tensors")
    return content


def save(
    file: pathlib.Path, state: Mapping[str, HostArray], *, section: str, beside: Mapping[str, Any]
) -> None:
    """Writes {**beside, section: state} with torch.save, numpy arrays as tensors."""
    torch = import_torch(file)
    tensors = {}
    for key, value in state.items():
        value = np.ascontiguousarray(value).reshape(value.shape)  # a scalar stays a scalar
        if value.dtype == ml_dtypes.bfloat16:
            tensors[key] = torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
        else:
            tensors[key] = torch.from_numpy(value)
    torch.save({**beside, section: tensors}, file)


def import_torch(file: pathlib.Path) -> Any:
    """PyTorch, which only conversion needs. Raises OlaError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise OlaError(f"{file}: this format needs PyTorch: pip install 'ola_jax[convert]'") from error
    return torch


def _section(file: pathlib.Path, content: dict[str, Any], name: str) -> dict[str, Any] | None:
    section = content.get(name)
    if section is not None and not isinstance(section, dict):
        raise OlaError(f"{file}: {name} is {section!r:.60}, expected a dict")
    return section


def _to_numpy(value: Any) -> HostArray:
    import torch

    value = value.detach()
    if value.dtype == torch.bfloat16:  # not a type of numpy: its bits are reinterpreted
        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.contiguous().numpy()


def _some_keys(content: dict[Any, Any]) -> str:
    names = [str(key) for key in content]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"
