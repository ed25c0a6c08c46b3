"""The parameters of a checkpoint as an engine holds them: on its devices, int8 where it wants that."""

import os
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from ola_jax.batch import Budget
from ola_jax.checkpoint import load, load_configs
from ola_jax.config import OlaConfig
from ola_jax.generate.requests import EngineConfig
from ola_jax.models.ola import abstract_params, parameter_shapes
from ola_jax.models.quantization import abstract_quantized, is_quantizable, quantize_weights
from ola_jax.sharding import MeshConfig, check_mesh, make_mesh, parameter_shardings
from ola_jax.typing import Params


def load_weights(directory: str | os.PathLike[str], config: EngineConfig) -> Params:
    """The parameters of a checkpoint for an engine with this config.

    On a mesh every device reads its own shards. For int8 one matrix at a time is read and made int8, the
    largest first: beside the result there is never more than one of them. Raises OlaError for what is no
    complete checkpoint.
    """
    model, _, _ = load_configs(directory)
    mesh = decoder_mesh(config, model)
    places = None if mesh is None else parameter_shardings(abstract_params(model), mesh)
    if config.weights is None:
        return load(directory, shardings=places)[1]
    size = {path: shape.size for path, shape in parameter_shapes(model).items()}
    flat: dict[str, Any] = {}
    for path in sorted(filter(is_quantizable, size), key=lambda path: -size[path]):
        part = load(directory, shardings=places, only=lambda each, path=path: each == path)[1]
        flat |= traverse_util.flatten_dict(jax.block_until_ready(quantize_weights(part)), sep="/")
    rest = load(directory, shardings=places, only=lambda path: not is_quantizable(path))[1]
    return traverse_util.unflatten_dict(flat | traverse_util.flatten_dict(rest, sep="/"), sep="/")


def decoder_mesh(config: EngineConfig, model: OlaConfig) -> Mesh | None:
    """The mesh that the decoder is split over; None for one device. Raises OlaError if it cannot be split."""
    if config.tensor == 1:
        return None
    mesh = make_mesh(MeshConfig(tensor=config.tensor))
    check_mesh(mesh, model, rows=1, budget=Budget(tokens=1))
    return mesh


def weight_shardings(config: EngineConfig, model: OlaConfig, mesh: Mesh) -> Params:
    """Where each parameter belongs, as the engine holds them."""
    boxed = abstract_params(model)
    return parameter_shardings(abstract_quantized(boxed) if config.weights == "int8" else boxed, mesh)
