"""LoRA and DoRA adapters in PEFT's layout, merged into the tensors that they change.

    LoRA   W + s B A             s = alpha / r, or alpha / sqrt(r) with use_rslora
    DoRA   m (W + s B A) / |W + s B A|     m and the norm: one for each output (arXiv 2402.09353)

Each is computed in float32 and rounded once, to the dtype of W.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ola_jax.convert import pickles
from ola_jax.convert.readers import Tensor, open_safetensors, read_json
from ola_jax.errors import OlaError
from ola_jax.typing import Float, Shaped

PREFIX = "base_model.model."
LORA_KEY = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?")
ROWS = 4096  # of W in float32 at a time


def merge(tensors: dict[str, Tensor], directory: pathlib.Path) -> tuple[dict[str, Tensor], list[str]]:
    """`tensors` with an adapter's changes, made when they are read; and a line for the user.

    `directory`: adapter_config.json, adapter_model.safetensors (or .bin), and the original's
    non_lora_trainables.bin if it is there. Raises OlaError for a tensor that has no place.
    """
    config = read_json(directory / "adapter_config.json")
    _check_config(config, directory / "adapter_config.json")
    parts, whole = _adapter_tensors(directory)
    changed = dict(tensors)
    for key, tensor in whole.items():  # biases and modules that were trained whole
        if key not in tensors or tensors[key].shape != tensor.shape:
            found = list(tensors[key].shape) if key in tensors else "nothing"
            raise OlaError(
                f"{tensor.file}: {key} {list(tensor.shape)} replaces a tensor, but the base has {found}"
            )
        changed[key] = _with_dtype(tensor, tensors[key].dtype)
    for module, adapter in parts.items():
        key = f"{module}.weight"
        if key not in tensors:
            raise OlaError(f"{directory}: the adapter changes {key}, which the base checkpoint does not have")
        changed[key] = _merged(
            key, changed[key], adapter, _scale(config, module, adapter), bool(config.get("use_dora"))
        )
    kind = "DoRA" if config.get("use_dora") else "LoRA"
    note = f"{kind} adapter merged into {len(parts)} tensors, {len(whole)} replaced whole"
    return changed, [note]


def _check_config(config: Mapping[str, Any], file: pathlib.Path) -> None:
    if config.get("peft_type") != "LORA":
        raise OlaError(
            f"{file}: peft_type is {config.get('peft_type')!r}; LORA (DoRA included) can be merged"
        )
    for name in ("fan_in_fan_out", "lora_bias"):
        if config.get(name):
            raise OlaError(f"{file}: {name} is on, which Ola's linear layers do not know")
    for name, kind in (("r", int), ("lora_alpha", int | float)):
        if not isinstance(config.get(name), kind) or config[name] <= 0:
            raise OlaError(f"{file}: {name}: found {config.get(name)!r}, expected a positive number")


def _adapter_tensors(directory: pathlib.Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """By module, its lora_A, lora_B and lora_magnitude_vector; and the tensors that are given whole."""
    file = directory / "adapter_model.safetensors"
    if file.is_file():
        tensors = open_safetensors(file)
    elif (file := directory / "adapter_model.bin").is_file():
        tensors = pickles.tensors_of(file, pickles.load(file))
    else:
        raise OlaError(f"{directory}: no adapter: expected adapter_model.safetensors or adapter_model.bin")
    parts: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        key = key.removeprefix(PREFIX)
        if match := LORA_KEY.fullmatch(key):
            parts.setdefault(match[1], {})[match[2]] = tensor
        elif "lora_" in key:
            raise OlaError(f"{file}: {key} is of a kind of adapter that cannot be merged; LoRA and DoRA can")
        else:
            whole[key.replace(".modules_to_save.default", "")] = tensor
    extra = directory / "non_lora_trainables.bin"
    if extra.is_file():
        found = pickles.tensors_of(extra, pickles.load(extra))
        found = {key.removeprefix("base_model."): tensor for key, tensor in found.items()}
        if any(key.startswith("model.model.") for key in found):
            found = {key.removeprefix("model."): tensor for key, tensor in found.items()}
        whole |= found
    return parts, whole


def _scale(config: Mapping[str, Any], module: str, adapter: Mapping[str, Tensor]) -> float:
    """Alpha / r, where patterns by the end of a module's name may set alpha."""
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", module):
            alpha = value
    rank = adapter["lora_A"].shape[0] if "lora_A" in adapter else config["r"]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _merged(key: str, base: Tensor, adapter: Mapping[str, Tensor], scale: float, dora: bool) -> Tensor:
    names = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if dora else set())
    if adapter.keys() != names:
        raise OlaError(f"{base.file}: the adapter of {key} has {sorted(adapter)}, expected {sorted(names)}")
    rank = adapter["lora_A"].shape[0]
    expected = {"lora_A": (rank, base.shape[-1]), "lora_B": (base.shape[0], rank)}
    expected["lora_magnitude_vector"] = (base.shape[0],)
    for name, tensor in adapter.items():
        if tensor.shape != expected[name]:
            raise OlaError(
                f"{tensor.file}: {name} of {key} is {list(tensor.shape)}, expected {list(expected[name])}"
            )

    def read() -> np.ndarray:
        parts = {name: tensor.read().astype(np.float32) for name, tensor in adapter.items()}
        values = base.read()
        out = np.empty_like(values)  # the values may be a file's own memory
        for i in range(0, len(out), ROWS):
            rows = slice(i, i + ROWS)
            m = parts["lora_magnitude_vector"][rows] if dora else None
            weight = values[rows].astype(np.float32)
            out[rows] = merged_rows(weight, parts["lora_A"], parts["lora_B"][rows], scale, m).astype(
                out.dtype
            )
        return out

    return dataclasses.replace(base, read=read)


def merged_rows(
    weight: Float[np.ndarray, "out in"],
    a: Float[np.ndarray, "r in"],
    b: Float[np.ndarray, "out r"],
    scale: float,
    magnitude: Float[np.ndarray, " out"] | None,
) -> Float[np.ndarray, "out in"]:
    """Rows of a weight with their adapter; `magnitude`: DoRA's, None for LoRA."""
    changed = weight + np.float32(scale) * (b @ a)
    if magnitude is None:
        return changed
    return (magnitude / np.linalg.norm(changed, axis=1))[:, None] * changed


def _with_dtype(tensor: Tensor, dtype: str) -> Tensor:
    def read() -> Shaped[np.ndarray, "..."]:
        return tensor.read().astype(dtype)

    return dataclasses.replace(tensor, dtype=dtype, read=read)
