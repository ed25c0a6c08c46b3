"""LoRA and DoRA adapters in PEFT's layout, folded into the tensors that they change.

    LoRA   W + s B A             s = alpha / r, or alpha / sqrt(r) with use_rslora
    DoRA   m (W + s B A) / |W + s B A|     m and the norm: one for each output (arXiv 2402.09353);
                                           of embeddings, one for each dimension
    PiSSA  W without its r largest singular components, + s B A (arXiv 2404.02948)
    OLoRA  W - s Q R of its first r columns and rows, + s B A (arXiv 2406.01775)

Each is computed in float32 and rounded once, to the dtype of W. The result is that of PEFT's
merge_and_unload, tests/convert/test_adapters_peft.py.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from ola_jax.convert.adapter_config import BaseInit
from ola_jax.convert.adapter_files import CONFIG, PeftAdapter, read_adapter
from ola_jax.convert.casting import cast
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.convert.vocabulary import KEYS as VOCABULARY
from ola_jax.errors import OlaError
from ola_jax.typing import Float, HostArray, Shaped

ROWS = 4096  # of W in float32 at a time
NAMES = {"pissa": "PiSSA", "olora": "OLoRA"}
RESIZE = "; --vocabulary tokenizer resizes the base"


@dataclasses.dataclass(frozen=True)
class Change:
    """The change s B A of one matrix, its tensors not yet read."""

    a: Tensor  # [r, in]
    b: Tensor  # [out, r]
    scale: float
    magnitude: Tensor | None = None  # DoRA's
    embedding: bool = False  # a and b are stored as [r, out] and [in, r]

    def matrices(self) -> tuple[Float[HostArray, "r in"], Float[HostArray, "out r"]]:
        """A and B, for a linear layer's [out, in]."""
        a, b = (
            cast(tensor.read(), "float32", key="an adapter", file=tensor.file) for tensor in (self.a, self.b)
        )
        return (b.T, a.T) if self.embedding else (a, b)


def fold_adapter(
    tensors: Mapping[str, Tensor], directory: pathlib.Path, *, tied: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Folds an adapter into `tensors`: its changes, computed when they are read, and notes for the user.

    `directory`: adapter_config.json, adapter_model.safetensors (or .bin), and the original's
    non_lora_trainables.bin if it exists. `tied`: lm_head is the embeddings, so a change of one
    is a change of both. Raises OlaError for a tensor that does not fit.
    """
    adapter = read_adapter(directory, tensors)
    config = adapter.config
    changes: dict[str, tuple[Change, ...]] = {}
    for module in adapter.parts:
        key = f"{module}.weight"
        if key not in tensors:
            raise OlaError(f"{directory}: the adapter changes {key}, which the base checkpoint does not have")
        changes[key] = (_read_change(adapter, module, tensors[key]),)
    base = dict(adapter.base)
    if tied and any(key in changes for key in VOCABULARY):
        both = tuple(change for key in VOCABULARY for change in changes.get(key, ()))
        if len(both) > 1 and (both[0].magnitude or config.base_init):
            raise OlaError(f"{directory}: changes both of the tied {' and '.join(VOCABULARY)}, only LoRA can")
        # A matrix that was trained directly is no longer tied.
        changes |= {key: both for key in VOCABULARY if key in changes or key not in adapter.trained}
        for key, other in (VOCABULARY, VOCABULARY[::-1]):
            if key in base:
                base.setdefault(other, base[key])
    folded = dict(tensors)
    for key, tensor in (base | adapter.trained).items():  # biases, and modules that were trained directly
        folded[key] = _replace(key, tensor, tensors)
    for key, several in changes.items():
        # The initial values are already subtracted from a weight in the adapter's file.
        folded[key] = _fold(key, folded[key], several, None if key in base else config.base_init)
    for module, parts in adapter.parts.items():
        if "lora_B.bias" in parts:
            folded |= {f"{module}.bias": _fold_bias(adapter, module, folded)}
    kind = "DoRA" if config.use_dora else "LoRA"
    notes = [f"{kind} adapter folded into {len(adapter.parts)} tensors, {len(adapter.trained)} replaced"]
    if config.base_init:
        notes.append(
            f"{NAMES[config.base_init]}: the adapter's initial values were subtracted from the base, as PEFT "
            "does on loading"
        )
    return folded, notes


def _read_change(adapter: PeftAdapter, module: str, base: Tensor) -> Change:
    """The change of a module's weight, its parts and shapes checked."""
    parts, config = adapter.parts[module], adapter.config
    key, embedding = f"{module}.weight", any("embedding" in name for name in parts)
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    names = {a, b} | ({"lora_magnitude_vector"} if config.use_dora else set())
    names |= {"lora_B.bias"} if config.lora_bias else set()
    if parts.keys() != names:
        raise OlaError(
            f"{adapter.directory}: the adapter of {key} has {sorted(parts)}, expected {sorted(names)}"
        )
    if len(base.shape) != 2:
        raise OlaError(
            f"{adapter.directory}: {key} is {list(base.shape)}; an adapter can change matrices only"
        )
    if embedding and config.base_init:
        raise OlaError(
            f"{adapter.file}: init_lora_weights is {config.base_init!r}, which embeddings ({key}) cannot have"
        )
    rank, (rows, columns) = config.rank(module), base.shape
    expected: dict[str, tuple[int, ...]] = {
        "lora_A": (rank, columns),
        "lora_B": (rows, rank),
        "lora_B.bias": (rows,),
        "lora_embedding_A": (rank, rows),
        "lora_embedding_B": (columns, rank),
        "lora_magnitude_vector": (columns if embedding else rows,),
    }
    for name, tensor in parts.items():
        if tensor.shape != expected[name]:
            raise OlaError(
                f"{tensor.file}: {name} of {key} is {list(tensor.shape)}, expected {list(expected[name])} by "
                f"the base and the rank in {CONFIG}{RESIZE if key in VOCABULARY else ''}"
            )
    magnitude = parts.get("lora_magnitude_vector")
    return Change(parts[a], parts[b], config.scale(module), magnitude, embedding)


def _replace(key: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Casts `tensor` to the dtype of the base's tensor of that key."""
    if key not in tensors or tensors[key].shape != tensor.shape:
        found = list(tensors[key].shape) if key in tensors else "nothing"
        raise OlaError(
            f"{tensor.file}: {key} {list(tensor.shape)} replaces a tensor, but the base has "
            f"{found}{RESIZE if key in VOCABULARY else ''}"
        )
    dtype = tensors[key].dtype
    read = lambda: cast(tensor.read(), dtype, key=key, file=tensor.file)
    return dataclasses.replace(tensor, dtype=dtype, read=read)


def _fold(key: str, base: Tensor, changes: tuple[Change, ...], base_init: BaseInit | None) -> Tensor:
    def read() -> HostArray:
        values = base.read()
        matrices = [(change.scale, *change.matrices()) for change in changes]
        initial = _find_initial(values, base_init, *matrices[0]) if base_init else None
        vector, embedding = changes[0].magnitude, changes[0].embedding
        magnitude = vector.read().astype(np.float32) if vector else None
        blocks = [slice(i, i + ROWS) for i in range(0, len(values), ROWS)]

        def change(rows: slice) -> HostArray:
            weight = values[rows].astype(np.float32)
            if initial:
                weight = weight - initial[0][rows] @ initial[1]
            for scale, a, b in matrices:
                weight = weight + np.float32(scale) * (b[rows] @ a)
            return weight

        by_column = None
        if magnitude is not None and embedding:
            squares = sum(np.sum(np.square(change(rows), dtype=np.float64), axis=0) for rows in blocks)
            with np.errstate(divide="ignore", invalid="ignore"):
                by_column = magnitude / np.sqrt(squares).astype(np.float32)
        out = np.empty_like(values)  # the values may be mapped from a file
        for rows in blocks:
            weight = change(rows)
            with np.errstate(divide="ignore", invalid="ignore"):  # a row of zeros: NaN, as with PEFT
                if by_column is not None:
                    weight = by_column * weight
                elif magnitude is not None:
                    weight = (magnitude[rows] / np.linalg.norm(weight, axis=1))[:, None] * weight
            out[rows] = cast(weight, base.dtype, key=key, file=changes[0].a.file)
        return out

    return dataclasses.replace(base, read=read)


def _find_initial(
    values: Shaped[HostArray, "out in"], base_init: BaseInit, scale: float, a: HostArray, b: HostArray
) -> tuple[Float[HostArray, "out r"], Float[HostArray, "r in"]]:
    """Two matrices whose product the adapter subtracted from the base when it was initialized."""
    rank = len(a)
    if base_init == "olora":
        q = np.linalg.qr(values[:, :rank].astype(np.float64))[0]
        return (scale * q).astype(np.float32), _multiply(values.T, q).T.astype(np.float32)
    wide = values.shape[1] > values.shape[0]
    sides = values.T if wide else values  # [long, short]
    gram = np.zeros((sides.shape[1], sides.shape[1]))
    for start in range(0, len(sides), ROWS):
        block = sides[start : start + ROWS].astype(np.float64)
        gram = gram + block.T @ block
    vectors = np.linalg.eigh(gram)[1][:, -rank:]  # of the largest singular values
    left, right = _multiply(sides, vectors).astype(np.float32), vectors.T.astype(np.float32)
    return (right.T, left.T) if wide else (left, right)


def _multiply(left: HostArray, right: HostArray) -> HostArray:
    """The product in float64, block by block."""
    return np.concatenate([left[i : i + ROWS].astype(np.float64) @ right for i in range(0, len(left), ROWS)])


def _fold_bias(adapter: PeftAdapter, module: str, tensors: Mapping[str, Tensor]) -> Tensor:
    key, bias, scale = f"{module}.bias", adapter.parts[module]["lora_B.bias"], adapter.config.scale(module)
    if key not in tensors:
        raise OlaError(f"{adapter.directory}: lora_bias needs a bias, and the base has no {key}")
    base = tensors[key]

    def read() -> HostArray:
        values = base.read().astype(np.float32) + np.float32(scale) * bias.read().astype(np.float32)
        return cast(values, base.dtype, key=key, file=bias.file)

    return dataclasses.replace(base, read=read)
