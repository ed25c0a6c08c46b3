"""The start of a stage: the model of the previous stage, a checkpoint, or random parameters."""

import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh

from ola_jax import checkpoint, sharding
from ola_jax.config import OlaConfig, ProcessorConfig, architecture, differences, from_dict
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params, init_params
from ola_jax.training import stage_settings, state
from ola_jax.training.checkpoint import is_training_checkpoint, restore_params
from ola_jax.training.config import TrainConfig
from ola_jax.training.digests import tokenizer_digest
from ola_jax.training.finished import is_finished
from ola_jax.training.settings import short
from ola_jax.typing import Params


def stage_folder(config: TrainConfig, number: int) -> pathlib.Path:
    """The folder of the stage's checkpoints, figures and model."""
    return pathlib.Path(config.output) / f"{number}_{config.stages[number].name}"


def make_stage_folder(config: TrainConfig, number: int) -> pathlib.Path:
    """The stage's folder, created if it does not exist. Raises OlaError if it cannot be created."""
    folder = stage_folder(config, number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OlaError(
            f"{folder}: cannot be created ({error.strerror or error}); expected a folder"
        ) from error
    return folder


def start_params(config: TrainConfig, number: int, shardings: Params) -> Params:
    """The parameters that a stage starts from, sharded by `shardings`.

    `init_from` may also be a stage's `checkpoints`, of this run or another, or one of them: only
    the parameters are used. Raises OlaError if its model is not the config's.
    """
    source = stage_folder(config, number - 1) / "model" if number > 0 else config.init_from
    if not source:
        return init_params(config.model, config.seed, shardings)
    source = pathlib.Path(source)
    found, _ = _read_configs(source)
    if found is not None:
        _check_model(source, found, config.model)
    if is_training_checkpoint(source):
        return restore_params(source, nn.unbox(abstract_params(config.model)), shardings)
    return checkpoint.load(source, shardings=shardings)[1]


def check_start(config: TrainConfig, report: Callable[[str], None]) -> None:
    """Compares the model, processor and tokenizer of `init_from` with the config's; reports differences.

    Raises OlaError for another model, and for a tokenizer of another size.
    """
    if not config.init_from:
        return
    source = pathlib.Path(config.init_from)
    model, processor = _read_configs(source)
    if model is not None:
        _check_model(source, model, config.model)
    for path, (there, here) in differences(processor, config.processor).items() if processor else ():
        report(f"processor.{path}: {short(there)} in {source}, {short(here)} in this run")
    before, now = source / "tokenizer", pathlib.Path(config.tokenizer or source / "tokenizer")
    if not before.is_dir() or tokenizer_digest(before) == tokenizer_digest(now):
        return
    old, new = (load_tokenizer(folder).get_vocab() for folder in (before, now))
    if len(old) != len(new):
        raise OlaError(
            f"tokenizer: {now} has {len(new)} tokens, and that of {source} has {len(old)}; leave "
            "tokenizer unset to take the model's own"
        )
    differ = sum(new.get(token) != number for token, number in old.items())
    report(f"tokenizer: {now} is not that of {source}; {differ} of {len(old)} tokens have another id")


def check_stages(config: TrainConfig, mesh: Mesh) -> None:
    """Raises OlaError if a stage does not fit the mesh, or a pattern of it matches no parameter."""
    abstract = nn.unbox(abstract_params(config.model))
    for number, stage in enumerate(config.stages):
        try:
            sharding.check_mesh(
                mesh, config.model, rows=stage.rows // stage.microbatches, budget=stage.budget
            )
            create = lambda params, stage=stage: state.create(
                params, stage.trainable, optax.identity(), adapters=stage.lora
            )
            jax.eval_shape(create, abstract)
        except OlaError as error:
            raise OlaError(f"stages.{number}: {error}") from error


def check_begun(config: TrainConfig, tokenizer: pathlib.Path, generation: dict[str, Any]) -> None:
    """Raises OlaError if a stage began with another model or other data than the config's.

    This is checked before any stage is trained, as an earlier one may be about to be trained again.
    """
    before: dict[str, Any] | None = None
    begun = [number for number in range(len(config.stages)) if stage_folder(config, number).exists()]
    for number in range(max(begun, default=-1) + 1):
        folder, steps = stage_folder(config, number), config.stages[number].steps
        settings = stage_settings.describe(
            config, number, tokenizer=tokenizer, generation=generation, before=before
        )
        finished, recorded = is_finished(folder, lambda _: None), stage_settings.read(folder)
        if finished:
            stage_settings.check_finished(folder, settings)
        else:
            stage_settings.check_resumed(folder, settings, steps)
        # The settings that the stage ends with, which the next one starts from.
        trained = finished or (recorded and (stage_settings.last_step(folder) or 0) >= steps)
        before = recorded if trained else settings


def _read_configs(source: pathlib.Path) -> tuple[OlaConfig | None, ProcessorConfig | None]:
    """The configs of the model at `source`; for a stage's checkpoints, as its recorded settings have them."""
    if not is_training_checkpoint(source):
        return checkpoint.load_configs(source)[:2]
    for folder in source.absolute().parents[:2]:
        if (record := stage_settings.read(folder)) is not None:
            where = str(folder / stage_settings.FILE)
            return (
                from_dict(OlaConfig, record["model"], f"{where}: model"),
                from_dict(ProcessorConfig, record["processor"], f"{where}: processor"),
            )
    return None, None  # of a version that did not record settings


def _check_model(source: pathlib.Path, found: OlaConfig, model: OlaConfig) -> None:
    differ = differences(architecture(found), architecture(model))
    if differ:
        words = [
            f"{path} ({_value(there)} there, {_value(here)} here)" for path, (there, here) in differ.items()
        ]
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        raise OlaError(
            f"{source}: its model differs from the config's in {', '.join(words[:5])}{more}; they "
            "must be the same"
        )


def _value(value: object) -> str:
    return "none" if value is None else "some" if isinstance(value, dict) else short(value)
