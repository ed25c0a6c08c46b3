"""A checked export: an ola_jax checkpoint, its arrays not yet read, and the tensors to write."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import export_config
from ola_jax.convert.names import BEATS, TABLE, WHISPER, num_layers
from ola_jax.convert.orbax_store import Reader
from ola_jax.convert.origin import Origin, parse_origin
from ola_jax.convert.safetensors_reader import DTYPES
from ola_jax.convert.safetensors_writer import TensorSpec
from ola_jax.convert.vocabulary import KEYS
from ola_jax.errors import OlaError
from ola_jax.models.ola import parameter_shapes
from ola_jax.typing import HostArray

DType = Literal["keep", "float32", "bfloat16", "float16"]
EMBEDDING, HEAD = KEYS


@dataclasses.dataclass(frozen=True)
class ExportJob:
    """An ola_jax checkpoint, checked; `exporter` reads its arrays."""

    source: pathlib.Path
    config: OlaConfig
    processor_config: ProcessorConfig
    generation_config: dict[str, Any]
    reader: Reader
    tensors: dict[str, TensorSpec]  # all that will be written, by key, in a released checkpoint's order
    separate: bool  # speech encoders in files of their own
    whisper: pathlib.Path | None  # OpenAI's file, whose decoder is copied
    origin: Origin
    tied: bool  # lm_head is the embeddings
    notes: tuple[str, ...]

    def embedded(self) -> dict[str, TensorSpec]:
        """The tensors of the safetensors files."""
        separate = (WHISPER, BEATS) if self.separate else ()
        return {key: spec for key, spec in self.tensors.items() if not key.startswith(separate)}

    def config_json(self) -> dict[str, Any]:
        """The released config.json."""
        return export_config.make_config_json(
            self.config,
            self.processor_config,
            self.generation_config,
            stored=self.origin.config,
            dtype=self.tensors[EMBEDDING].dtype,
            tied=self.tied,
        )


def prepare_export(
    source: pathlib.Path,
    *,
    speech_encoder: Literal["embedded", "separate"] = "embedded",
    dtype: DType = "keep",
    whisper: pathlib.Path | None = None,
) -> ExportJob:
    """Checks an ola_jax checkpoint, or the directory of a finished training stage.

    `whisper`: with separate speech encoders, OpenAI's file whose decoder is copied into the new one.
    Raises OlaError if the parameters are not those of the model that config.json describes.
    """
    source, notes = find_model(source)
    config, processor_config, generation_config = checkpoint.load_configs(source)
    if foreign := export_config.find_foreign_parts(config):
        raise OlaError(f"{source}: cannot be exported: {'; '.join(foreign)}")
    reader = Reader(source / "params")
    _check_leaves(source, config, reader)
    separate = speech_encoder == "separate"
    if separate and not (config.whisper and config.beats):
        raise OlaError(f"{source}: has no speech encoder; leave out --speech-encoder separate")
    if whisper and not separate:
        raise OlaError("--whisper needs --speech-encoder separate: otherwise no Whisper file is written")
    origin = parse_origin(checkpoint.load_released(source), str(source / "released.json"))
    tensors = _list_tensors(config, reader.leaves, dtype=dtype, mixed=origin.dtypes)
    was_tied = bool((origin.config or {}).get("tie_word_embeddings"))
    tied = was_tied and _head_is_embedding(reader)
    if tied and origin.head == "absent":
        del tensors[HEAD]
    if was_tied and not tied:
        notes.append("lm_head now differs from the embeddings: written, and tie_word_embeddings is false")
    if separate and not whisper:
        notes.append(
            "the Whisper file has a decoder without layers, since Ola does not use it; --whisper large-v3.pt "
            "copies that file's decoder"
        )
    if config.whisper and not separate:
        notes.append(
            "the original always reads Whisper and BEATs from separate files; --speech-encoder "
            "separate writes them"
        )
    if config.llm.rope_scaling:
        notes.append("the original's code ignores rope_scaling (YaRN); transformers' Qwen2 computes it")
    for line in export_config.find_built_in_sizes(config):
        notes.append(f"the original's code cannot load this model: {line}")
    return ExportJob(
        source=source,
        config=config,
        processor_config=processor_config,
        generation_config=generation_config,
        reader=reader,
        tensors=tensors,
        separate=separate,
        whisper=whisper,
        origin=origin,
        tied=tied,
        notes=tuple(notes),
    )


def find_model(source: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """The checkpoint at `source` or in that stage's directory, and a note about what is not exported."""
    model = source / "model" if checkpoint.is_checkpoint(source / "model") else source
    stage = model.parent if model.name == "model" else None
    if stage and (stage / "checkpoints").is_dir():
        return model, [
            f"{stage / 'checkpoints'}: the optimizer's state, step and data position are not exported"
        ]
    if (source / "checkpoints").is_dir() and not checkpoint.is_checkpoint(source):
        raise OlaError(
            f"{source}: a training stage that has not ended (no model/ yet); let train.py finish it"
        )
    stages = sorted(path.parent for path in source.glob("*/model") if checkpoint.is_checkpoint(path))
    if stages and not checkpoint.is_checkpoint(source):
        raise OlaError(f"{source}: a run of {len(stages)} stages; name one, such as --from {stages[-1]}")
    return model, []


def _check_leaves(source: pathlib.Path, config: OlaConfig, reader: Reader) -> None:
    expected = parameter_shapes(config)
    for path in sorted(expected.keys() | reader.leaves.keys()):
        found, wanted = reader.leaves.get(path), expected.get(path)
        if (found and found.shape) != (wanted and wanted.shape):
            raise OlaError(
                f"{source / 'params'}: {path} is {list(found.shape) if found else 'missing'}, expected "
                f"{list(wanted.shape) if wanted else 'nothing of that name'}; write the checkpoint again"
            )


def _list_tensors(
    config: OlaConfig,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    *,
    dtype: DType,
    mixed: Mapping[str, str],
) -> dict[str, TensorSpec]:
    """Every tensor, layer by layer as a PyTorch module lists them. `mixed`: stored dtypes by key."""
    specs: dict[str, TensorSpec] = {}
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
                shape = entry.torch_shape(leaf.shape)
                specs[key] = TensorSpec(shape, stored if dtype == "keep" else dtype)
    return specs


def _head_is_embedding(reader: Reader) -> bool:
    """True if lm_head and the embeddings are equal, bit for bit."""
    embedding, head = reader.leaves["llm/embed_tokens/embedding"], reader.leaves["llm/lm_head/kernel"]
    if embedding.dtype != head.dtype:
        return False
    embeddings = np.concatenate([piece for _, piece in reader.pieces("llm/embed_tokens/embedding")])
    return all(
        np.array_equal(_bits(piece), _bits(embeddings[:, start : start + len(piece)].T))
        for start, piece in reader.pieces("llm/lm_head/kernel")
    )


def _bits(values: HostArray) -> HostArray:
    return values.view(f"u{values.dtype.itemsize}")
