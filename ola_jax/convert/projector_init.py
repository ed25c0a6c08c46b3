"""Projectors at their first values, where the user asked for it, for a model put together from parts."""

import pathlib

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from ola_jax.config import OlaConfig
from ola_jax.convert.names import BY_PATH
from ola_jax.convert.safetensors_reader import Tensor
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, example_batch

PARTS = {"vision_projector": "model.mm_projector.", "speech_projector": "model.speech_projector."}

ENCODER_OF = {"vision_projector": "vision", "speech_projector": "whisper"}


def parse_parts(text: str) -> tuple[str, ...]:
    """The parts that `--init` names: "vision_projector,speech_projector"."""
    parts = tuple(part for part in text.split(",") if part)
    if unknown := [part for part in parts if part not in PARTS]:
        raise OlaError(
            f"--init {unknown[0]}: expected some of {','.join(PARTS)}; other parts come from files"
        )
    return parts


def init_projectors(config: OlaConfig, parts: tuple[str, ...], seed: int = 0) -> dict[str, Tensor]:
    """The parts' tensors by released key, in float32, as the model itself initialises them."""

    @jax.jit  # what is not returned is not computed: no other part is ever allocated
    def values(key: jax.Array) -> dict:
        params = nn.unbox(Ola(config).init(key, example_batch(config)))["params"]
        return {part: params[part] for part in parts}

    tensors = {}
    for path, leaf in traverse_util.flatten_dict(values(jax.random.key(seed)), sep="/").items():
        entry = BY_PATH[path]
        value = np.ascontiguousarray(entry.to_torch(np.asarray(leaf)))
        file = pathlib.Path("--init")
        tensors[entry.torch] = Tensor(value.shape, "float32", file, lambda value=value: value)
    return tensors
