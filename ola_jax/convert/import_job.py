"""A checked import: a released checkpoint, its tensors not yet read, and the model that it describes."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert import added_encoders, projector_init, released_config, vocabulary
from ola_jax.convert.adapters import fold_adapter
from ola_jax.convert.added_encoders import PartialModel
from ola_jax.convert.origin import Origin
from ola_jax.convert.parameter_matching import Leaf, match_parameters
from ola_jax.convert.safetensors_reader import Tensor, check_weight_dtype, read_json, read_safetensors
from ola_jax.errors import OlaError

DType = Literal["keep", "float32", "bfloat16"]
EMBEDDING, HEAD = vocabulary.KEYS


@dataclasses.dataclass(frozen=True)
class ImportJob:
    """A released checkpoint as our model, checked; `importer` reads its tensors."""

    source: pathlib.Path
    config: OlaConfig
    processor_config: ProcessorConfig
    generation_config: dict[str, Any]
    leaves: tuple[Leaf, ...]
    tensors: dict[str, Tensor]
    dtype: DType
    origin: Origin  # for a later export
    notes: tuple[str, ...]  # assumptions and changes, one line each
    initialized: tuple[str, ...] = ()  # parts that are initialized at random, untrained

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


def prepare_import(
    source: pathlib.Path,
    *,
    whisper: pathlib.Path | None = None,
    beats: pathlib.Path | None = None,
    vision: pathlib.Path | None = None,
    init: tuple[str, ...] = (),
    adapter: pathlib.Path | None = None,
    resize_vocabulary: bool = False,
    vision_heads: int | None = None,
    whisper_heads: int | None = None,
    dtype: DType = "keep",
) -> ImportJob:
    """Checks a directory in Hugging Face's layout: config.json, safetensors, generation_config.json.

    `whisper` and `beats` are the separate files of the speech encoders; they take precedence over
    copies inside the safetensors, as in the original's loader. `vision` (see `vision_files`), with the
    projectors to initialize in `init`, adds encoders to a checkpoint without them: a plain Qwen2.5, or
    Ola-Image. `adapter`: a LoRA or DoRA to fold in. `resize_vocabulary`: to one embedding for each token.
    Raises OlaError naming every missing, unused or mis-shaped key.
    """
    where = str(source / "config.json")
    released = read_json(source / "config.json")
    model = PartialModel(read_safetensors(source), released, vision_heads)
    if vision:
        model = added_encoders.add_vision(model, vision, init=init, source=source)
    model = added_encoders.add_speech(model, whisper, beats, init=init, source=source)
    model, tied, head = _tie_head(model, where)
    tensors, values, notes = model.tensors, model.values, list(model.notes)
    if resize_vocabulary:
        tensors, values, lines = vocabulary.resize_vocabulary(source, tensors, values)
        notes += lines
    if adapter:  # after the resizing: adapters are trained on the resized model
        tensors, lines = fold_adapter(tensors, adapter, tied=tied)
        notes += lines
    vocabulary.check_vocabulary(source, values)
    replaced = tuple(projector_init.PREFIXES[part] for part in init)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(replaced)}
    config, assumptions = released_config.read_ola_config(
        values,
        where,
        shapes=_shapes(tensors),
        dims=model.whisper_dims,
        cfg=model.beats_cfg,
        vision_heads=model.vision_heads,
        whisper_heads=whisper_heads,
    )
    if init:
        projector_init.check_parts(config, init, source)
        tensors |= projector_init.init_projectors(config, init)
        notes.append(f"initialized at random, untrained: {', '.join(init)}")
    leaves = match_parameters(config, _shapes(tensors), str(source))
    for leaf in leaves:
        for key in (*leaf.keys, *leaf.copies):
            check_weight_dtype(key, tensors[key])
    generation_file = source / "generation_config.json"
    return ImportJob(
        source=source,
        config=config,
        processor_config=released_config.read_processor_config(values, where),
        generation_config=read_json(generation_file) if generation_file.is_file() else {},
        leaves=tuple(leaves),
        tensors=tensors,
        dtype=dtype,
        origin=Origin(
            config=values,
            whisper_dims=model.whisper_dims,
            beats_cfg=model.beats_cfg,
            dtypes=_mixed_dtypes(leaves, tensors) if dtype == "keep" else {},
            head=head,
        ),
        notes=(*notes, *assumptions),
        initialized=init,
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tensor.shape for key, tensor in tensors.items()}


def _tie_head(model: PartialModel, where: str) -> tuple[PartialModel, bool, Literal["absent", "present"]]:
    """The model with an lm_head, True if config.json ties it to the embeddings, and if it was stored."""
    tensors = model.tensors
    if not model.values.get("tie_word_embeddings") or EMBEDDING not in tensors:
        return model, False, "present"
    if HEAD not in tensors:
        note = "lm_head: a copy of the embeddings, which this checkpoint ties to it"
        tied = tensors | {HEAD: tensors[EMBEDDING]}
        return dataclasses.replace(model, tensors=tied, notes=(*model.notes, note)), True, "absent"
    head, embedding = tensors[HEAD], tensors[EMBEDDING]
    same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
    if not same or head.read().tobytes() != embedding.read().tobytes():
        raise OlaError(
            f"{where}: tie_word_embeddings is true, but lm_head.weight differs from the embeddings; set "
            "it to false if both are meant, or leave lm_head.weight out"
        )
    return model, True, "present"


def _mixed_dtypes(leaves: list[Leaf], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype by key where the layers of one leaf differ: the leaf holds their widest."""
    mixed: dict[str, str] = {}
    for leaf in leaves:
        dtypes = {key: tensors[key].dtype for key in leaf.keys}
        if len(set(dtypes.values())) > 1:
            mixed |= dtypes
    return mixed
