"""LoRA and DoRA adapters in PEFT's layout, merged into the tensors that they change.

    LoRA   W + s B A             s = alpha / r, or alpha / sqrt(r) with use_rslora
    DoRA   m (W + s B A) / |W + s B A|     m and the norm: one for each output (arXiv 2402.09353);
                                           of embeddings, one for each dimension
    PiSSA  W without its r largest singular components, + s B A (arXiv 2404.02948)
    OLoRA  W - s Q R of its first r columns and rows, + s B A (arXiv 2406.01775)

Each is computed in float32 and rounded once, to the dtype of W. The result is that of PEFT's
merge_and_unload, tests/convert/test_adapters_peft.py.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from ola_jax.convert import adapter_config, adapter_files
from ola_jax.convert.adapter_files import Adapter
from ola_jax.convert.casting import cast
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.convert.vocabulary import KEYS as VOCABULARY
from ola_jax.errors import OlaError
from ola_jax.typing import Float

ROWS = 4096  # of W in float32 at a time


@dataclasses.dataclass(frozen=True)
class Change:
    """The change of one matrix, its tensors not yet read: s B A."""

    a: Tensor  # [r, in]
    b: Tensor  # [out, r]
    scale: float
    magnitude: Tensor | None = None  # DoRA's
    embedding: bool = False  # a and b are stored as [r, out] and [in, r]

    def matrices(self) -> tuple[Float[np.ndarray, "r in"], Float[np.ndarray, "out r"]]:
        """A and B, for a linear layer's [out, in]."""
        a, b = (cast(tensor.read(), "float32", "an adapter", tensor.file) for tensor in (self.a, self.b))
        return (b.T, a.T) if self.embedding else (a, b)


def merge(
    tensors: dict[str, Tensor], directory: pathlib.Path, tied: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """`tensors` with an adapter's changes, made when they are read; and lines for the user.

    `directory`: adapter_config.json, adapter_model.safetensors (or .bin), and the original's
    non_lora_trainables.bin if it is there. `tied`: lm_head is the embeddings, so a change of one
    is a change of both. Raises OlaError for a tensor that has no place.
    """
    adapter = adapter_files.read(directory, tensors)
    changed, changes = dict(tensors), {}
    for module in adapter.parts:
        key = f"{module}.weight"
        if key not in tensors:
            raise OlaError(f"{directory}: the adapter changes {key}, which the base checkpoint does not have")
        changes[key] = (_change(adapter, module, tensors[key]),)
    base = dict(adapter.base)
    if tied and any(key in changes for key in VOCABULARY):
        both = sum((changes.get(key, ()) for key in VOCABULARY), ())
        if len(both) > 1 and (
            both[0].magnitude or adapter_config.initialisation(adapter.config, adapter.file)
        ):
            raise OlaError(f"{directory}: changes both of the tied {' and '.join(VOCABULARY)}, only LoRA can")
        # One that was trained whole is a matrix of its own from then on.
        changes |= {key: both for key in VOCABULARY if key in changes or key not in adapter.whole}
        for key, other in (VOCABULARY, VOCABULARY[::-1]):
            if key in base:
                base.setdefault(other, base[key])
    for key, tensor in (base | adapter.whole).items():  # biases, and modules that were trained whole
        changed[key] = _in_place_of(key, tensor, tensors)
    initial = adapter_config.initialisation(adapter.config, adapter.file)
    for key, several in changes.items():
        taken = initial if key not in base else None  # what the file gives has had it taken out already
        changed[key] = _merged(key, changed[key], several, taken)
    for module, parts in adapter.parts.items():
        if "lora_B.bias" in parts:
            scale = adapter_config.scale(adapter.config, module)
            changed |= {f"{module}.bias": _with_bias(adapter, module, changed, parts["lora_B.bias"], scale)}
    kind = "DoRA" if adapter.config.get("use_dora") else "LoRA"
    notes = [f"{kind} adapter merged into {len(adapter.parts)} tensors, {len(adapter.whole)} replaced whole"]
    if initial:
        name = {"pissa": "PiSSA", "olora": "OLoRA"}[initial]
        notes.append(
            f"{name}: what the adapter began with was taken out of the base, as PEFT does on loading"
        )
    return changed, notes


def _change(adapter: Adapter, module: str, base: Tensor) -> Change:
    """The change of a module's weight, its parts and shapes checked."""
    parts, config = adapter.parts[module], adapter.config
    key, embedding = f"{module}.weight", any("embedding" in name for name in parts)
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    names = {a, b} | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
    names |= {"lora_B.bias"} if config.get("lora_bias") else set()
    if parts.keys() != names:
        raise OlaError(
            f"{adapter.directory}: the adapter of {key} has {sorted(parts)}, expected {sorted(names)}"
        )
    if len(base.shape) != 2:
        raise OlaError(f"{adapter.directory}: {key} is {list(base.shape)}, not a matrix; it cannot be merged")
    if embedding and (initial := adapter_config.initialisation(config, adapter.file)):
        raise OlaError(
            f"{adapter.file}: init_lora_weights is {initial!r}, which embeddings ({key}) cannot have"
        )
    rank, (rows, columns) = adapter_config.rank(config, module), base.shape
    expected = {"lora_A": (rank, columns), "lora_B": (rows, rank), "lora_B.bias": (rows,)}
    expected |= {"lora_embedding_A": (rank, rows), "lora_embedding_B": (columns, rank)}
    expected["lora_magnitude_vector"] = (columns if embedding else rows,)
    for name, tensor in parts.items():
        if tensor.shape != expected[name]:
            hint = "; --vocabulary tokenizer resizes the base" if key in VOCABULARY else ""
            raise OlaError(
                f"{tensor.file}: {name} of {key} is {list(tensor.shape)}, expected {list(expected[name])} by "
                f"the base and the rank in {adapter_files.CONFIG}{hint}"
            )
    scale = adapter_config.scale(config, module)
    return Change(parts[a], parts[b], scale, parts.get("lora_magnitude_vector"), embedding)


def _in_place_of(key: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    if key not in tensors or tensors[key].shape != tensor.shape:
        found = list(tensors[key].shape) if key in tensors else "nothing"
        hint = "; --vocabulary tokenizer resizes it" if key in VOCABULARY else ""
        raise OlaError(
            f"{tensor.file}: {key} {list(tensor.shape)} replaces a tensor, but the base has {found}{hint}"
        )
    dtype = tensors[key].dtype
    return dataclasses.replace(tensor, dtype=dtype, read=lambda: cast(tensor.read(), dtype, key, tensor.file))


def _merged(key: str, base: Tensor, changes: tuple[Change, ...], initial: str | None) -> Tensor:
    def read() -> np.ndarray:
        values = base.read()
        matrices = [(change.scale, *change.matrices()) for change in changes]
        taken = _taken(values, initial, *matrices[0]) if initial else None
        magnitude = changes[0].magnitude and changes[0].magnitude.read().astype(np.float32)
        blocks = [slice(i, i + ROWS) for i in range(0, len(values), ROWS)]

        def changed(rows: slice) -> np.ndarray:
            weight = values[rows].astype(np.float32)
            if taken:
                weight = weight - taken[0][rows] @ taken[1]
            for scale, a, b in matrices:
                weight = weight + np.float32(scale) * (b[rows] @ a)
            return weight

        by_column = None
        if magnitude is not None and changes[0].embedding:
            squares = sum(np.sum(np.square(changed(rows), dtype=np.float64), axis=0) for rows in blocks)
            with np.errstate(divide="ignore", invalid="ignore"):
                by_column = magnitude / np.sqrt(squares).astype(np.float32)
        out = np.empty_like(values)  # the values may be a file's own memory
        for rows in blocks:
            weight = changed(rows)
            with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros: NaN, as with PEFT
                if by_column is not None:
                    weight = by_column * weight
                elif magnitude is not None:
                    weight = (magnitude[rows] / np.linalg.norm(weight, axis=1))[:, None] * weight
            out[rows] = cast(weight, base.dtype, key, changes[0].a.file)
        return out

    return dataclasses.replace(base, read=read)


def _taken(
    values: np.ndarray, initial: str, scale: float, a: np.ndarray, b: np.ndarray
) -> tuple[Float[np.ndarray, "out r"], Float[np.ndarray, "r in"]]:
    """Two matrices whose product the adapter took out of the base when it began."""
    rank = len(a)
    times = (
        lambda left, right: np.concatenate(  # in float64, block by block
            [left[i : i + ROWS].astype(np.float64) @ right for i in range(0, len(left), ROWS)]
        )
    )
    if initial == "olora":
        q = np.linalg.qr(values[:, :rank].astype(np.float64))[0]
        return (scale * q).astype(np.float32), times(values.T, q).T.astype(np.float32)
    wide = values.shape[1] > values.shape[0]
    sides = values.T if wide else values  # [long, short]
    blocks = (sides[i : i + ROWS].astype(np.float64) for i in range(0, len(sides), ROWS))
    gram = functools.reduce(lambda total, block: total + block.T @ block, blocks, 0.0)
    vectors = np.linalg.eigh(gram)[1][:, -rank:]  # of the largest singular values
    left, right = times(sides, vectors).astype(np.float32), vectors.T.astype(np.float32)
    return (right.T, left.T) if wide else (left, right)


def _with_bias(
    adapter: Adapter, module: str, tensors: Mapping[str, Tensor], bias: Tensor, scale: float
) -> Tensor:
    key = f"{module}.bias"
    if key not in tensors:
        raise OlaError(f"{adapter.directory}: lora_bias needs a bias, and the base has no {key}")
    base = tensors[key]

    def read() -> np.ndarray:
        values = base.read().astype(np.float32) + np.float32(scale) * bias.read().astype(np.float32)
        return cast(values, base.dtype, key, bias.file)

    return dataclasses.replace(base, read=read)
