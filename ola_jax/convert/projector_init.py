"""Projectors at their initial values, on request, for a model that is assembled from parts."""

import functools
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
from ola_jax.typing import HostArray, Params

PREFIXES = {"vision_projector": "model.mm_projector.", "speech_projector": "model.speech_projector."}


def parse_parts(text: str) -> tuple[str, ...]:
    """The parts named by `--init`: "vision_projector,speech_projector"."""
    parts = tuple(part for part in text.split(",") if part)
    if unknown := [part for part in parts if part not in PREFIXES]:
        raise OlaError(
            f"--init {unknown[0]}: expected some of {','.join(PREFIXES)}; other parts come from files"
        )
    return parts


def check_parts(config: OlaConfig, parts: tuple[str, ...], source: pathlib.Path) -> None:
    """Raises OlaError if a part belongs to an encoder that the model does not have."""
    encoders = {"vision_projector": config.vision, "speech_projector": config.whisper}
    for part in parts:
        if encoders[part] is None:
            raise OlaError(f"{source}: --init {part}: the model has no {part.partition('_')[0]} encoder")


def init_projectors(config: OlaConfig, parts: tuple[str, ...], seed: int = 0) -> dict[str, Tensor]:
    """The parts' tensors by released key, in float32, initialized as the model itself does it."""

    @jax.jit  # nothing else is computed: no other part is ever allocated
    def initialize(key: jax.Array) -> Params:
        params = nn.unbox(Ola(config).init(key, example_batch(config)))["params"]
        return {part: params[part] for part in parts}

    tensors = {}
    for path, leaf in traverse_util.flatten_dict(initialize(jax.random.key(seed)), sep="/").items():
        entry = BY_PATH[path]
        value = np.ascontiguousarray(entry.to_torch(np.asarray(leaf)))
        read = functools.partial(_return, value)
        tensors[entry.torch] = Tensor(value.shape, "float32", pathlib.Path("--init"), read)
    return tensors


def _return(value: HostArray) -> HostArray:
    return value
