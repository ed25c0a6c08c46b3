"""An ola_jax checkpoint to a released PyTorch checkpoint, piece by piece."""

import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import export_config, pickles
from ola_jax.convert.casting import overflowed
from ola_jax.convert.layouts import copy
from ola_jax.convert.names import BEATS, BEATS_FILE, BY_PATH, TABLE, WHISPER, WHISPER_FILE, num_layers
from ola_jax.convert.prefetch import prefetch
from ola_jax.convert.readers import DTYPES
from ola_jax.convert.space import check_space
from ola_jax.convert.store import Reader
from ola_jax.convert.writer import ShardWriter, Spec
from ola_jax.errors import OlaError
from ola_jax.models.ola import parameter_shapes
from ola_jax.typing import Shaped

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Plan:
    """An ola_jax checkpoint that has been checked, its arrays not yet read."""

    source: pathlib.Path
    config: OlaConfig
    processor_config: ProcessorConfig
    generation_config: dict[str, Any]
    reader: Reader
    tensors: dict[str, Spec]  # all that will be written, by released key, in a released checkpoint's order
    separate: bool  # speech encoders in files of their own
    whisper: pathlib.Path | None
    released: dict[str, Any]
    tied: bool
    notes: tuple[str, ...]

    def inside(self) -> dict[str, Spec]:
        """The tensors of the safetensors files."""
        apart = (WHISPER, BEATS) if self.separate else ()
        return {key: spec for key, spec in self.tensors.items() if not key.startswith(apart)}


def plan(
    source: pathlib.Path,
    speech_encoder: Literal["embedded", "separate"] = "embedded",
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep",
    whisper: pathlib.Path | None = None,
) -> Plan:
    """Checks an ola_jax checkpoint, or the directory of a finished training stage.

    `whisper`: with separate speech encoders, OpenAI's file whose decoder the new one takes over.
    Raises OlaError where the parameters are not those of the model that config.json describes.
    """
    source, notes = model_directory(source)
    config, processor_config, generation_config = checkpoint.load_configs(source)
    reader = Reader(source / "params")
    expected = {path: leaf.shape for path, leaf in parameter_shapes(config).items()}
    for path in sorted(expected.keys() | reader.leaves.keys()):
        found, wanted = reader.leaves.get(path), expected.get(path)
        if (found and found.shape) != wanted:
            raise OlaError(
                f"{source / 'params'}: {path} is {list(found.shape) if found else 'missing'}, expected "
                f"{list(wanted) if wanted else 'nothing of that name'}; write the checkpoint again"
            )
    separate = speech_encoder == "separate"
    if separate and not (config.whisper and config.beats):
        raise OlaError(f"{source}: has no speech encoder; leave out --speech-encoder separate")
    if whisper and not separate:
        raise OlaError("--whisper goes with --speech-encoder separate: without it no Whisper file is written")
    released = checkpoint.load_released(source) or {}
    mixed = released.get("dtypes") or {}
    tensors = _specs(config, reader.leaves, dtype, mixed)
    was_tied = bool((released.get("config") or {}).get("tie_word_embeddings"))
    tied = was_tied and _same_head(reader)
    if tied and released.get("head") == "absent":
        del tensors[HEAD]
    if was_tied and not tied:
        notes.append("lm_head differs from the embeddings by now: written, and tie_word_embeddings is off")
    if separate and not whisper:
        notes.append(
            "the Whisper file has a decoder without layers, which Ola does not use; --whisper large-v3.pt "
            "takes over that file's"
        )
    if config.whisper and not separate:
        notes.append(
            "the original reads Whisper and BEATs from files of their own even so; --speech-encoder separate "
            "writes them"
        )
    if config.llm.rope_scaling:
        notes.append("the original's code leaves rope_scaling (YaRN) aside; transformers' Qwen2 computes it")
    for line in export_config.built_in_sizes(config):
        notes.append(f"the original's code cannot load this model: {line}")
    return Plan(
        source=source,
        config=config,
        processor_config=processor_config,
        generation_config=generation_config,
        reader=reader,
        tensors=tensors,
        separate=separate,
        whisper=whisper,
        released=released,
        tied=tied,
        notes=tuple(notes),
    )


def write(
    plan: Plan,
    directory: pathlib.Path,
    max_shard_size: str = "5GB",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the released layout: whole, or not at all. An existing directory with content is refused."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OlaError(f"{directory}: is there already and is not overwritten; choose another name")
    sizes = {
        key: int(np.prod(shape)) * np.dtype(dtype).itemsize for key, (shape, dtype) in plan.tensors.items()
    }
    total, done = sum(sizes.values()), 0
    check_space(directory, total)
    with checkpoint.replacing(directory) as build:
        try:
            writer = ShardWriter(build, plan.inside(), max_shard_size)
            apart: dict[str, np.ndarray] = {}
            for key, values in prefetch(tensors(plan)):
                if plan.separate and key.startswith((WHISPER, BEATS)):
                    apart[key] = values
                else:
                    writer.write(key, values)
                done += values.nbytes
                progress(done, total)
            writer.close()
            if plan.separate:
                _write_speech(plan, build, apart)
            _write_json(build / "config.json", _config_json(plan))
            _write_json(build / "generation_config.json", plan.generation_config)
            for file in (plan.source / "tokenizer").iterdir():
                shutil.copyfile(file, build / file.name)
        except (OSError, RuntimeError) as error:  # torch.save has only RuntimeError for a full disk
            raise OlaError(f"{directory}: cannot be written ({error})") from error


def tensors(plan: Plan) -> Iterator[tuple[str, Shaped[np.ndarray, "..."]]]:
    """Every released key and its values, in the order of our leaves; each stored piece is read once."""
    for path in plan.reader.leaves:
        entry = BY_PATH[path]
        keys = entry.keys(num_layers(plan.config, entry))
        if entry.stacked:
            for start, piece in plan.reader.pieces(path):
                for key, layer in zip(keys[start : start + len(piece)], piece, strict=True):
                    out = _empty(plan.tensors[key])
                    _cast(plan, key, entry.to_torch(layer), out)
                    yield key, out
        elif keys := [key for key in keys if key in plan.tensors]:
            out = _empty(plan.tensors[keys[0]])
            view = entry.to_jax(out)  # of the same memory, but for kernels of patches
            for start, piece in plan.reader.pieces(path):
                place = slice(start, start + len(piece)) if piece.ndim else ...
                _cast(plan, keys[0], piece, view[place])
            if not np.shares_memory(view, out):
                copy(entry.to_torch(view), out)
            for key in keys:
                yield key, out.astype(plan.tensors[key][1], copy=False)


def model_directory(source: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """The model's checkpoint at `source` or in its stage's directory, and what is left behind."""
    model = source / "model" if checkpoint.is_checkpoint(source / "model") else source
    stage = model.parent if model.name == "model" else None
    if stage and (stage / "checkpoints").is_dir():
        return model, [f"{stage / 'checkpoints'}: the optimizer's state, step and data position stay behind"]
    if (source / "checkpoints").is_dir() and not checkpoint.is_checkpoint(source):
        raise OlaError(
            f"{source}: a training stage that has not ended (no model/ yet); let train.py finish it"
        )
    stages = sorted(path.parent for path in source.glob("*/model") if checkpoint.is_checkpoint(path))
    if stages and not checkpoint.is_checkpoint(source):
        raise OlaError(f"{source}: a run of {len(stages)} stages; name one, such as --from {stages[-1]}")
    return model, []


def _specs(
    config: OlaConfig, leaves: Mapping[str, Any], dtype: str, mixed: Mapping[str, str]
) -> dict[str, Spec]:
    """Shape and dtype of every tensor, layer by layer as a PyTorch module lists them."""
    specs: dict[str, Spec] = {}
    present = [entry for entry in TABLE if entry.path in leaves]
    for _, group in itertools.groupby(present, key=lambda entry: entry.torch.partition("*")[:2]):
        entries = list(group)
        for layer in range(num_layers(config, entries[0])):
            for entry in entries:
                key = entry.keys(layer + 1)[-1]
                leaf = leaves[entry.path]
                stored = mixed.get(key, leaf.dtype.name)
                if leaf.dtype.name not in DTYPES.values():
                    raise OlaError(
                        f"{entry.path} has dtype {leaf.dtype}; expected float32, float16 or bfloat16"
                    )
                specs[key] = (entry.torch_shape(leaf.shape), stored if dtype == "keep" else dtype)
    return specs


def _same_head(reader: Reader) -> bool:
    """Whether lm_head has the very bits of the embeddings."""
    embedding, head = reader.leaves["llm/embed_tokens/embedding"], reader.leaves["llm/lm_head/kernel"]
    if embedding.dtype != head.dtype:
        return False
    whole = np.concatenate([piece for _, piece in reader.pieces("llm/embed_tokens/embedding")])
    return all(
        np.array_equal(_bits(piece), _bits(whole[:, start : start + len(piece)].T))
        for start, piece in reader.pieces("llm/lm_head/kernel")
    )


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")


def _empty(spec: Spec) -> np.ndarray:
    shape, dtype = spec
    return np.empty(shape, np.dtype(dtype))


def _cast(plan: Plan, key: str, values: np.ndarray, out: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        copy(values, out)
    if overflowed(values, out):
        raise OlaError(
            f"{plan.source}: {key} has values beyond {out.dtype.name}'s range; choose another --dtype"
        )


def _write_speech(plan: Plan, directory: pathlib.Path, apart: Mapping[str, np.ndarray]) -> None:
    """The files of Whisper and BEATs, named as config.json names them."""
    state = lambda prefix, new: {
        new + key.removeprefix(prefix): values for key, values in apart.items() if key.startswith(prefix)
    }
    values = _config_json(plan)
    dims, encoder = None, state(WHISPER, WHISPER_FILE)
    if plan.whisper:
        dims, decoder = pickles.read_whisper_decoder(plan.whisper)
    else:
        dims = export_config.whisper_dims(plan.config.whisper, plan.released.get("whisper_dims"))
        one = np.zeros(1, np.float16)
        decoder = {"positional_embedding": one[None], "token_embedding.weight": one[None]}
        decoder |= {"ln.weight": one, "ln.bias": one}
    whisper = encoder | {f"decoder.{key}": tensor for key, tensor in decoder.items()}
    file = directory / _name(values.get("speech_encoder") or export_config.WHISPER_NAME)
    pickles.save(file, {"dims": dims}, "model_state_dict", whisper)
    cfg = export_config.beats_cfg(plan.config.beats, plan.released.get("beats_cfg"))
    file = directory / _name(values.get("music_encoder") or export_config.BEATS_NAME)
    pickles.save(file, {"cfg": cfg}, "model", state(BEATS, BEATS_FILE))


def _config_json(plan: Plan) -> dict[str, Any]:
    return export_config.released_values(
        plan.config,
        plan.processor_config,
        plan.generation_config,
        plan.released.get("config"),
        plan.tensors[EMBEDDING][1],
        plan.tied,
    )


def _name(path: str) -> str:
    return pathlib.PurePath(path).name


def _write_json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
