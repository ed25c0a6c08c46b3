"""The parameters of a checkpoint as an engine holds them: on its devices, int8 where it wants that."""

import os
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ola_jax.batch import Budget
from ola_jax.checkpoint import load, load_configs
from ola_jax.config import OlaConfig
from ola_jax.generate.requests import EngineConfig
from ola_jax.models.ola import abstract_params, parameter_shapes
from ola_jax.models.quantization import abstract_quantized, is_quantizable, quantize_weights
from ola_jax.models.qwen2 import separate_layers
from ola_jax.sharding import MeshConfig, check_mesh, make_mesh, parameter_shardings, platform
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
    separate = platform() == "gpu" if config.separate_layers is None else config.separate_layers
    if config.weights is None:
        return arranged(load(directory, shardings=places)[1], config, separate)
    size = {path: shape.size for path, shape in parameter_shapes(model).items()}
    flat: dict[str, Any] = {}
    for path in sorted(filter(is_quantizable, size), key=lambda path: -size[path]):
        part = load(directory, shardings=places, only=frozenset({path}).__contains__)[1]
        flat |= traverse_util.flatten_dict(jax.block_until_ready(quantize_weights(part)), sep="/")
    rest = load(directory, shardings=places, only=lambda path: not is_quantizable(path))[1]
    whole = flat | traverse_util.flatten_dict(rest, sep="/")
    del flat, rest
    return arranged(traverse_util.unflatten_dict(whole, sep="/"), config, separate)


def arranged(params: Params, config: EngineConfig, separate: bool) -> Params:
    """The parameters as an engine with this config has them: int8, layers apart."""
    if config.weights == "int8":
        params = quantize_weights(params)
    return {**params, "llm": separate_layers(params["llm"])} if separate else params


def decoder_mesh(config: EngineConfig, model: OlaConfig) -> Mesh | None:
    """The mesh that the decoder is split over; None for one device. Raises OlaError if it cannot be split."""
    if config.tensor == 1:
        return None
    mesh = make_mesh(MeshConfig(tensor=config.tensor))
    check_mesh(mesh, model, rows=1, budget=Budget(tokens=1))
    return mesh


def weight_shardings(config: EngineConfig, model: OlaConfig, mesh: Mesh, separate: bool) -> Params:
    """Where each parameter belongs, as `arranged` has them."""
    boxed = abstract_params(model)
    places = parameter_shardings(abstract_quantized(boxed) if config.weights == "int8" else boxed, mesh)
    if not separate:
        return places
    of_layer = lambda place: NamedSharding(mesh, PartitionSpec(*place.spec[1:]))
    layer = jax.tree.map(of_layer, places["llm"]["layers"])
    layers = {str(number): layer for number in range(model.llm.num_layers)}
    return {**places, "llm": {**places["llm"], "layers": layers}}
