"""A released PyTorch checkpoint to an ola_jax checkpoint, piece by piece, every tensor accounted for."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import adapters, fresh, released_config, sources
from ola_jax.convert import vocabulary as vocabularies
from ola_jax.convert.casting import overflowed
from ola_jax.convert.layouts import copy
from ola_jax.convert.matching import Leaf, match
from ola_jax.convert.prefetch import prefetch
from ola_jax.convert.readers import Tensor, check_dtype, read_json, read_safetensors
from ola_jax.convert.space import check_space
from ola_jax.convert.store import Writer, piece_rows
from ola_jax.errors import OlaError
from ola_jax.typing import Params, Shaped

Progress = Callable[[int, int], None]  # told the bytes done and all bytes
DType = Literal["keep", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A released checkpoint that has been checked, its tensors not yet read."""

    source: pathlib.Path
    config: OlaConfig
    processor_config: ProcessorConfig
    generation_config: dict[str, Any]
    leaves: tuple[Leaf, ...]
    tensors: dict[str, Tensor]
    dtype: DType
    released: dict[
        str, Any
    ]  # what the way back needs: config.json, dims, cfg, dtypes of mixed leaves, lm_head
    notes: tuple[str, ...]  # what had to be assumed, one line each
    fresh: tuple[str, ...] = ()  # parts that init names: untrained

    def leaf_dtype(self, leaf: Leaf) -> np.dtype:
        """The dtype that a leaf is stored in: the widest of its layers', if they differ."""
        if self.dtype != "keep":
            return jnp.dtype(self.dtype)
        return jnp.result_type(*[jnp.dtype(self.tensors[key].dtype) for key in leaf.keys])

    def abstract_params(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every leaf, by path."""
        return {
            leaf.entry.path: jax.ShapeDtypeStruct(leaf.shape, self.leaf_dtype(leaf)) for leaf in self.leaves
        }


@dataclasses.dataclass(frozen=True)
class Released:
    """A released checkpoint, read in."""

    config: OlaConfig
    processor_config: ProcessorConfig
    params: Params  # numpy arrays
    generation_config: dict[str, Any]
    notes: tuple[str, ...]


def plan(
    source: pathlib.Path,
    whisper: pathlib.Path | None = None,
    beats: pathlib.Path | None = None,
    vision_heads: int | None = None,
    whisper_heads: int | None = None,
    dtype: DType = "keep",
    vision: pathlib.Path | None = None,
    adapter: pathlib.Path | None = None,
    init: tuple[str, ...] = (),
    vocabulary: Literal["keep", "tokenizer"] = "keep",
) -> Plan:
    """Checks a directory in Hugging Face's layout: config.json, safetensors, generation_config.json.

    `whisper` and `beats` are the separate files of the speech encoders; where given they win over
    copies inside the safetensors, as in the original's loader (quirk C3). `vision` (see
    `vision_files`), with `init` naming the projectors to be made anew, gives encoders to a checkpoint
    without: a plain Qwen2.5, or Ola-Image. `adapter`: a LoRA or DoRA to merge. `vocabulary`:
    tokenizer resizes the embeddings to it. Raises OlaError naming every missing, unused or
    mis-shaped key.
    """
    values = read_json(source / "config.json")
    where = str(source / "config.json")
    tensors, notes = read_safetensors(source), []
    if vision:
        values, tensors, vision_heads, notes = sources.with_vision(
            source, tensors, values, vision, vision_heads, init
        )
    tensors, values, dims, cfg = sources.with_speech(source, tensors, values, whisper, beats, init)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    absent = bool(values.get("tie_word_embeddings")) and head not in tensors and embedding in tensors
    tied = absent
    if absent:
        tensors = tensors | {head: tensors[embedding]}
        notes.append("lm_head: a copy of the embeddings, which this checkpoint ties to it")
    elif values.get("tie_word_embeddings") and head in tensors and embedding in tensors:
        _check_tied(tensors[head], tensors[embedding], where)
        tied = True
    if vocabulary == "tokenizer":
        tensors, values, lines = vocabularies.resize(source, tensors, values)
        notes += lines
    if adapter:  # trained behind the resizing, as the original resizes on loading
        tensors, lines = adapters.merge(tensors, adapter, tied)
        notes += lines
    vocabularies.check(source, values)
    tensors = {
        k: t for k, t in tensors.items() if not k.startswith(tuple(fresh.PARTS[part] for part in init))
    }
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    config, assumed = released_config.ola_config(
        values, shapes, dims, cfg, vision_heads, whisper_heads, where
    )
    if init:
        lacking = [part for part in init if getattr(config, fresh.ENCODER_OF[part]) is None]
        if lacking:
            raise OlaError(
                f"{source}: --init {lacking[0]}: the model has no {fresh.ENCODER_OF[lacking[0]]} encoder"
            )
        tensors |= fresh.init(config, init)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        notes.append(f"made anew, untrained: {', '.join(init)}")
    leaves = match(config, shapes, str(source))
    for leaf in leaves:
        for key in (*leaf.keys, *leaf.copies):
            check_dtype(key, tensors[key])
    generation_file = source / "generation_config.json"
    return Plan(
        source=source,
        config=config,
        processor_config=released_config.processor_config(values, where),
        generation_config=read_json(generation_file) if generation_file.is_file() else {},
        leaves=tuple(leaves),
        tensors=tensors,
        dtype=dtype,
        released={
            "config": values,
            "whisper_dims": dims,
            "beats_cfg": cfg,
            "dtypes": _mixed_dtypes(leaves, tensors) if dtype == "keep" else {},
            "head": "absent" if absent else "present",
        },
        notes=(*notes, *assumed),
        fresh=init,
    )


def write(
    plan: Plan,
    directory: pathlib.Path,
    check_finite: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes the ola_jax checkpoint: whole, or not at all. Peak memory: a few pieces, or one tensor.

    `check_finite`: raise OlaError for a tensor with NaN or infinity.
    """
    abstract = plan.abstract_params()
    size = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in abstract.values())
    check_space(checkpoint.check_destination(directory), size)
    with (
        checkpoint.create(
            directory,
            config=plan.config,
            processor_config=plan.processor_config,
            tokenizer_dir=plan.source,
            generation_config=plan.generation_config,
            released=plan.released,
        ) as params_directory,
        Writer(params_directory, abstract) as writer,
    ):
        for leaf, start, piece in prefetch(pieces(plan, check_finite, progress)):
            writer.write(leaf.entry.path, start, piece)


def read_released(
    source: pathlib.Path,
    whisper: pathlib.Path | None = None,
    beats: pathlib.Path | None = None,
    vision_heads: int | None = None,
    whisper_heads: int | None = None,
    dtype: DType = "keep",
    progress: Progress = lambda done, total: None,
    check_finite: bool = False,
) -> Released:
    """A released checkpoint in memory, as numpy arrays; arguments as of `plan` and `write`."""
    planned = plan(source, whisper, beats, vision_heads, whisper_heads, dtype)
    flat = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in planned.abstract_params().items()}
    for leaf, start, piece in pieces(planned, check_finite, progress):
        place = slice(start, start + len(piece)) if piece.ndim else ...
        flat[leaf.entry.path][place] = piece
    params = traverse_util.unflatten_dict(flat, sep="/")
    return Released(
        planned.config, planned.processor_config, params, planned.generation_config, planned.notes
    )


def pieces(
    plan: Plan, check_finite: bool = False, progress: Progress = lambda done, total: None
) -> Iterator[tuple[Leaf, int, Shaped[np.ndarray, "..."]]]:
    """(leaf, start on its first axis, values in our layout): all leaves in about CHUNK_BYTES each.

    Raises OlaError where the plan's dtype would make infinities of finite values.
    """
    total = sum(plan.tensors[key].nbytes for leaf in plan.leaves for key in leaf.keys)
    done = 0

    def read(key: str) -> np.ndarray:
        nonlocal done
        values = plan.tensors[key].read()
        if check_finite:
            _check_finite(key, plan.tensors[key], values)
        done += values.nbytes
        progress(done, total)
        return values

    for leaf in plan.leaves:
        _check_copies(leaf, plan.tensors)
        dtype = plan.leaf_dtype(leaf)
        rows = piece_rows(leaf.shape, dtype)
        if leaf.entry.stacked:
            for start in range(0, len(leaf.keys), rows):
                keys = leaf.keys[start : start + rows]
                out = np.empty((len(keys), *leaf.shape[1:]), dtype)
                for i, key in enumerate(keys):
                    _cast(plan, key, leaf.entry.to_jax(read(key)), out[i, ...])
                yield leaf, start, out
        else:
            values = leaf.entry.to_jax(read(leaf.keys[0]))
            for start in range(0, values.shape[0], rows) if values.ndim else [0]:
                part = values[start : start + rows] if values.ndim else values
                out = np.empty(part.shape, dtype)
                _cast(plan, leaf.keys[0], part, out)
                yield leaf, start, out


def _cast(plan: Plan, key: str, values: np.ndarray, out: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        copy(values, out)
    if overflowed(values, out):
        raise OlaError(
            f"{plan.tensors[key].file}: {key} has values beyond {out.dtype.name}'s range; choose another "
            "--dtype"
        )


def _check_tied(head: Tensor, embedding: Tensor, where: str) -> None:
    """Two that config.json ties must be one: else it is not clear which one is meant."""
    same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
    if not same or head.read().tobytes() != embedding.read().tobytes():
        raise OlaError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight differs from the embeddings; say "
            "false if both are meant, or leave lm_head.weight out"
        )


def _mixed_dtypes(leaves: list[Leaf], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype by key where the layers of one leaf differ: the leaf holds their widest."""
    mixed: dict[str, str] = {}
    for leaf in leaves:
        dtypes = {key: tensors[key].dtype for key in leaf.keys}
        if len(set(dtypes.values())) > 1:
            mixed |= dtypes
    return mixed


def _check_finite(key: str, tensor: Tensor, values: np.ndarray) -> None:
    # In slices: the answer for a whole embedding would take as much memory as the embedding.
    flat = values.reshape(-1)
    bad = sum(int(np.count_nonzero(~np.isfinite(flat[i : i + 2**24]))) for i in range(0, flat.size, 2**24))
    if bad:
        raise OlaError(
            f"{tensor.file}: {key} holds {bad} values that are NaN or infinite, of {values.size}; get the "
            "checkpoint again, or leave out --check-finite"
        )


def _check_copies(leaf: Leaf, tensors: Mapping[str, Tensor]) -> None:
    """Copies of a shared tensor must agree, bit for bit: else it is not clear which is meant (quirk C2)."""
    first = tensors[leaf.keys[0]].read() if leaf.copies else None
    for key in leaf.copies:
        other = tensors[key].read()
        if other.dtype != first.dtype or other.tobytes() != first.tobytes():
            raise OlaError(
                f"{tensors[key].file}: {key} differs from {leaf.keys[0]}; all layers share one tensor, "
                "expected equal copies"
            )
