"""Where a stage starts from: the model of the stage before, a checkpoint, or random parameters."""

import dataclasses
import pathlib

import flax.linen as nn

from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params, init_params
from ola_jax.training.checkpoint import is_training_checkpoint, restore_params
from ola_jax.training.config import TrainConfig
from ola_jax.typing import Params


def stage_folder(config: TrainConfig, number: int) -> pathlib.Path:
    """Of the stage's checkpoints, figures and model."""
    return pathlib.Path(config.output) / f"{number}_{config.stages[number].name}"


def start_params(config: TrainConfig, number: int, shardings: Params) -> Params:
    """The parameters that a stage starts from, split as `shardings` say.

    `init_from` may also be a stage's `checkpoints`, of this run or another, or one of them: parameters
    are taken, and nothing else. Raises OlaError where the model there is not the config's.
    """
    source = stage_folder(config, number - 1) / "model" if number > 0 else config.init_from
    if not source:
        return init_params(config.model, config.seed, shardings)
    if is_training_checkpoint(pathlib.Path(source)):
        return restore_params(pathlib.Path(source), nn.unbox(abstract_params(config.model)), shardings)
    found = checkpoint.load_configs(source)[0]
    how = {name: getattr(config.model, name) for name in ("dtype", "remat", "attention")}
    if dataclasses.replace(found, **how) != config.model:
        raise OlaError(f"{source}: its model differs from the config's; they must be the same")
    return checkpoint.load(source, shardings=shardings)[1]
