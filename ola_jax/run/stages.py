"""A complete run: all stages of a config, each with its scores; then a summary."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import rich.console

from ola_jax import checkpoint, sharding
from ola_jax.errors import OlaError, first_line
from ola_jax.run.inputs import load_processor, tokenizer_folder
from ola_jax.run.loop import train_stage
from ola_jax.run.scores import score_stage, summarize
from ola_jax.training import measures, stage_settings
from ola_jax.training.config import DistributedConfig, TrainConfig
from ola_jax.training.finished import is_finished, remove_incomplete
from ola_jax.training.output_lock import locked
from ola_jax.training.start import check_begun, check_stages, check_start, stage_folder
from ola_jax.training.stop import StopRequest
from ola_jax.typing import Params

console = rich.console.Console()


def run(config: TrainConfig, prepare: Callable[[TrainConfig], TrainConfig] | None = None) -> None:
    """Connects to the other processes of the run, if any, and trains in a locked output folder."""
    start_processes(config.distributed)
    is_first = jax.process_index() == 0
    with locked(pathlib.Path(config.output), console.print) if is_first else contextlib.nullcontext():
        train(config, prepare)


def train(config: TrainConfig, prepare: Callable[[TrainConfig], TrainConfig] | None = None) -> None:
    """Trains the stages that are not finished, one after the other; `prepare` builds missing data."""
    begin = time.perf_counter()
    mesh = sharding.make_mesh(config.mesh)
    if mesh.size < jax.device_count():
        console.print(f"using {mesh.size} of {jax.device_count()} devices; --config.mesh.fsdp=-1 uses all")
    if not measures.peak_is_known(mesh):
        console.print(f"no MFU: ola_jax/hardware.py has no figures for {mesh.devices.flat[0].device_kind!r}")
    if config.tasks and jax.process_count() > 1:
        raise OlaError("tasks: they are answered by one process; set none in a run of several processes")
    check_stages(config, mesh)
    if prepare:
        config = prepare(config)
    processor, generation = load_processor(config)
    check_begun(config, tokenizer_folder(config), generation)

    results: dict[str, Any] = {}
    before: list[str] = []  # stages that were finished already
    stop = StopRequest(console.print)
    for number, stage in enumerate(config.stages):
        folder = stage_folder(config, number)
        if is_finished(folder, console.print):
            before.append(stage.name)
            settings = stage_settings.describe(
                config, number, tokenizer=tokenizer_folder(config), generation=generation
            )
            for line in stage_settings.check_finished(folder, settings):
                console.print(line)
        else:
            if number == 0 and stage_settings.last_step(folder) is None:
                check_start(config, console.print)
            with jax.set_mesh(mesh):
                params = train_stage(config, number, processor, generation=generation, mesh=mesh, stop=stop)
            write_model(config, folder, params, generation=generation)
            del params
        if config.tasks:
            last = number == len(config.stages) - 1
            found = score_stage(config, folder, None if last else config.evaluation.limit)
            results[stage.name] = found
            show = {name: f"{100 * score['accuracy']:.0f} %" for name, score in found.items()}
            console.print(f"after {stage.name}:", ", ".join(f"{k} {v}" for k, v in show.items()))
    summarize(config, results, finished_before=before, seconds=time.perf_counter() - begin)


def write_model(
    config: TrainConfig, folder: pathlib.Path, params: Params, *, generation: dict[str, Any]
) -> None:
    """Writes the model that the stage in `folder` ended with; its last state is saved already."""
    released = checkpoint.load_released(config.init_from) if config.init_from else None
    try:
        remove_incomplete(folder)
        checkpoint.save(
            folder / "model",
            config=config.model,
            processor_config=config.processor,
            params=params,
            tokenizer_dir=tokenizer_folder(config),
            generation_config=generation,
            released=released,
        )
    except OSError as error:
        raise OlaError(
            f"{folder / 'model'}: cannot be written ({error.strerror or error}); the trained state is saved: "
            "make room, and run the same command again to write the model"
        ) from error


def start_processes(config: DistributedConfig) -> None:
    """Connects to the other processes of the run, if there are any."""
    if not config.enabled:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.process_count, config.process_id)
    except (ValueError, RuntimeError) as error:
        raise OlaError(
            f"distributed: {first_line(error)}; outside a cluster that JAX knows, set coordinator, "
            "process_count and process_id"
        ) from error
