"""A released PyTorch checkpoint as configs and a parameter tree, every tensor accounted for."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta

from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import released_config
from ola_jax.convert.names import BEATS, BY_PATH, WHISPER, Entry, num_layers
from ola_jax.convert.readers import Tensor, read_beats, read_safetensors, read_whisper
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, example_batch
from ola_jax.typing import Params

LISTED = 8  # keys that an error names of each kind


@dataclasses.dataclass(frozen=True)
class Released:
    """A released checkpoint, read in."""

    config: OlaConfig
    processor_config: ProcessorConfig
    params: Params  # numpy arrays
    generation_config: dict[str, Any]
    notes: tuple[str, ...]  # what had to be assumed, one line each


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of our tree and the tensors that it is made of, layer by layer."""

    entry: Entry
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    copies: tuple[str, ...] = ()  # further tensors that must equal the first


def read_released(
    source: pathlib.Path,
    whisper: pathlib.Path | None = None,
    beats: pathlib.Path | None = None,
    vision_heads: int | None = None,
    whisper_heads: int | None = None,
    dtype: Literal["keep", "float32", "bfloat16"] = "keep",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Released:
    """Reads a directory in Hugging Face's layout: config.json, safetensors, generation_config.json.

    `whisper` and `beats` are the separate files of the speech encoders; where given they win over
    copies inside the safetensors, as in the original's loader (quirk C3). `progress` is told the
    bytes read and their total. Raises OlaError naming every missing, unused or mis-shaped key.
    """
    values = read_json(source / "config.json")
    where = str(source / "config.json")
    tensors = read_safetensors(source)
    tensors, dims, cfg = _with_speech(source, tensors, values, whisper, beats)
    notes: list[str] = []
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if values.get("tie_word_embeddings") and head not in tensors and embedding in tensors:
        tensors = tensors | {head: tensors[embedding]}
        notes.append("lm_head: a copy of the embeddings, which this checkpoint ties to it")
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    config, assumed = released_config.ola_config(
        values, shapes, dims, cfg, vision_heads, whisper_heads, where
    )
    leaves = match(config, shapes, str(source))
    generation_file = source / "generation_config.json"
    return Released(
        config=config,
        processor_config=released_config.processor_config(values, where),
        params=_read(leaves, tensors, None if dtype == "keep" else dtype, progress),
        generation_config=read_json(generation_file) if generation_file.is_file() else {},
        notes=(*notes, *assumed),
    )


def abstract_params(config: OlaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Path and shape of every parameter of the model, without allocating any."""
    init = lambda: Ola(config).init(jax.random.key(0), example_batch(config))["params"]
    return traverse_util.flatten_dict(meta.unbox(jax.eval_shape(init)), sep="/")


def match(config: OlaConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> list[Leaf]:
    """Which tensors make up each leaf of the model. `shapes` are the tensors of a released checkpoint.

    Raises OlaError unless every leaf is covered, in its shape, and every tensor used exactly once.
    """
    leaves, used, missing, misshaped = [], set(), [], []
    for path, leaf in abstract_params(config).items():
        entry = BY_PATH[path]
        keys = entry.keys(num_layers(config, entry))
        if entry.copies:  # one will do; more must be the same
            keys = [key for key in keys if key in shapes] or keys[:1]
        expected = entry.torch_shape(leaf.shape)
        for key in keys:
            if key not in shapes:
                missing.append(f"{key} {list(expected)}")
            elif tuple(shapes[key]) != expected:
                misshaped.append(f"{key} {list(shapes[key])}, expected {list(expected)}")
        used.update(keys)
        main = keys[:1] if entry.copies else keys
        leaves.append(Leaf(entry, leaf.shape, tuple(main), tuple(keys[len(main) :])))
    unused = [f"{key} {list(shapes[key])}" for key in shapes if key not in used]
    problems = [
        f"{len(lines)} {kind}: {'; '.join(lines[:LISTED])}" + (" ..." if len(lines) > LISTED else "")
        for kind, lines in (("missing", missing), ("unused", unused), ("mis-shaped", misshaped))
        if lines
    ]
    if problems:
        raise OlaError(
            f"{where}: tensors do not fit the model that config.json and the shapes describe: "
            + " | ".join(problems)
        )
    return leaves


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """A JSON object from a file; OlaError if there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
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


def _with_speech(
    source: pathlib.Path,
    tensors: dict[str, Tensor],
    values: Mapping[str, Any],
    whisper: pathlib.Path | None,
    beats: pathlib.Path | None,
) -> tuple[dict[str, Tensor], Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """All tensors, the separate speech files' in the place of those inside; and those files' dims and cfg."""
    if not released_config.has_speech(values, str(source / "config.json")):
        if whisper or beats:
            raise OlaError(
                f"{source}: config.json names no speech_encoder, so there is no place for --whisper or "
                "--beats; leave them out"
            )
        return tensors, None, None
    inside = lambda prefix: any(key.startswith(prefix) for key in tensors)
    needed = [
        f"{flag} {file}"
        for flag, file, given, prefix in (
            ("--whisper", "large-v3.pt", whisper, WHISPER),
            ("--beats", "BEATs.pt", beats, BEATS),
        )
        if given is None and not inside(prefix)
    ]
    if needed:
        raise OlaError(
            f"{source}: holds no weights of its speech encoder (model.speech_encoder.*); give "
            + " and ".join(needed)
        )
    dims = cfg = None
    if whisper:
        dims, encoder = read_whisper(whisper)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(WHISPER)} | encoder
    if beats:
        cfg, encoder = read_beats(beats)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(BEATS)} | encoder
    return tensors, dims, cfg


def _read(
    leaves: list[Leaf],
    tensors: Mapping[str, Tensor],
    dtype: str | None,
    progress: Callable[[int, int], None],
) -> Params:
    size = lambda key: int(np.prod(tensors[key].shape)) * np.dtype(tensors[key].dtype).itemsize
    for leaf in leaves:
        for key in (*leaf.keys, *leaf.copies):
            _check_dtype(key, tensors[key])
    total = sum(size(key) for leaf in leaves for key in leaf.keys)
    done, flat = 0, {}
    for leaf in leaves:
        stored = jnp.result_type(*[jnp.dtype(tensors[key].dtype) for key in leaf.keys])
        out = np.empty(leaf.shape, dtype or stored)
        for i, key in enumerate(leaf.keys):
            out[i if leaf.entry.stacked else ...] = leaf.entry.to_jax(tensors[key].read())
            done += size(key)
            progress(done, total)
        _check_copies(leaf, tensors)
        flat[leaf.entry.path] = out
    return traverse_util.unflatten_dict(flat, sep="/")


def _check_dtype(key: str, tensor: Tensor) -> None:
    if tensor.dtype not in ("float32", "float16", "bfloat16"):
        raise OlaError(
            f"{tensor.file}: {key} has dtype {tensor.dtype}; expected float32, float16 or bfloat16 weights"
        )


def _check_copies(leaf: Leaf, tensors: Mapping[str, Tensor]) -> None:
    """Copies of a shared tensor must agree, bit for bit: else it is not clear which one is meant."""
    first = tensors[leaf.keys[0]].read() if leaf.copies else None
    for key in leaf.copies:
        other = tensors[key].read()
        if other.dtype != first.dtype or other.tobytes() != first.tobytes():
            raise OlaError(
                f"{tensors[key].file}: {key} differs from {leaf.keys[0]}; all layers share one tensor, "
                "expected equal copies"
            )
