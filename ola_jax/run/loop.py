"""Trains Ola, stage after stage: `python train.py --config=configs/digits_omni.py`.

Fields are overridden by path: `--config.seed=1 --config.stages.0.steps=500`. A run that was stopped
(Ctrl-C, SIGTERM) is resumed where it was by the same command; settings that make another model or other
data are refused then, others are reported.

`--compile_only --topology=v5p:4x4x4` trains nothing: it compiles the step of every stage for TPUs that are
not there, and tells what it needs and can reach; `--plan` also looks for the batch and the remat policy
that are fastest.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import rich.console
from jax.sharding import Mesh

from ola_jax import checkpoint, sharding
from ola_jax.aot import compile as compiling
from ola_jax.aot.plan import plan
from ola_jax.data.pipeline import make_train_iterator
from ola_jax.data.processor import Processor
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError, first_line
from ola_jax.eval import report
from ola_jax.eval.during_training import Evaluation
from ola_jax.eval.tasks import read_tasks, score_tasks
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.training import lora, measures, optimizer, stage_settings, state
from ola_jax.training.checkpoint import TrainCheckpoints
from ola_jax.training.config import DistributedConfig, TrainConfig, check
from ola_jax.training.finished import is_finished, make_way
from ola_jax.training.load_config import is_help, load_config, usage
from ola_jax.training.output_lock import locked
from ola_jax.training.profile import Profile
from ola_jax.training.start import (
    check_begun,
    check_stages,
    check_start,
    make_stage_folder,
    stage_folder,
    start_params,
)
from ola_jax.training.step import make_train_step
from ola_jax.training.stop import StopRequest
from ola_jax.training.watch import Watch
from ola_jax.typing import Params

console = rich.console.Console()


def main() -> None:
    """All stages of the config, each with its evaluation; then a summary."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--compile_only", action="store_true")
    parser.add_argument("--topology")
    parser.add_argument("--plan", action="store_true")
    flags, rest = parser.parse_known_args()
    if is_help(rest):
        print(usage())
        return
    loaded = load_config(rest)
    config = loaded.config
    only_compile = bool(flags.compile_only or flags.topology or flags.plan)
    check(config, to_train=not only_compile)
    if only_compile:
        compile_for(config, flags.topology, flags.plan)
        return
    start_processes(config.distributed)
    is_first = jax.process_index() == 0
    with locked(pathlib.Path(config.output), console.print) if is_first else contextlib.nullcontext():
        train(config, getattr(loaded.module, "prepare", None))


def train(config: TrainConfig, prepare: Callable[[TrainConfig], TrainConfig] | None = None) -> None:
    """Train the stages that are not finished, one after the other; `prepare` makes data that are missing."""
    begin = time.perf_counter()
    mesh = sharding.make_mesh(config.mesh)
    if mesh.size < jax.device_count():
        console.print(f"using {mesh.size} of {jax.device_count()} devices; --config.mesh.fsdp=-1 takes all")
    if not measures.peak_is_known(mesh):
        console.print(f"no MFU: ola_jax/hardware.py has no figures of {mesh.devices.flat[0].device_kind!r}")
    if config.tasks and jax.process_count() > 1:
        raise OlaError("tasks: they are answered by one process; set none in a run of several processes")
    check_stages(config, mesh)
    if prepare:
        config = prepare(config)
    processor, generation = open_tokenizer(config)
    check_begun(config, tokenizer_dir(config), generation)

    results: dict[str, Any] = {}
    before = []  # the stages that were finished already
    stop = StopRequest(console.print)
    for number, stage in enumerate(config.stages):
        folder = stage_folder(config, number)
        if is_finished(folder, console.print):
            before.append(stage.name)
            settings = stage_settings.describe(config, number, tokenizer_dir(config), generation)
            for line in stage_settings.check_finished(folder, settings):
                console.print(line)
        else:
            if number == 0 and stage_settings.last_step(folder) is None:
                check_start(config, console.print)
            with jax.set_mesh(mesh):
                params = train_stage(config, number, processor, generation, mesh, stop)
            write_model(config, folder, params, generation)
            del params
        if config.tasks:
            last = number == len(config.stages) - 1
            found = accuracy(config, folder, None if last else config.eval_limit)
            results[stage.name] = found
            show = {name: f"{100 * of_task['accuracy']:.0f} %" for name, of_task in found.items()}
            console.print(f"after {stage.name}:", ", ".join(f"{k} {v}" for k, v in show.items()))
    summarize(config, results, before, time.perf_counter() - begin)


def compile_for(config: TrainConfig, topology: str | None, search: bool) -> None:
    """Compile the step of every stage for a TPU topology, and show what comes of it."""
    if not topology:
        raise OlaError("--compile_only: give --topology=NAME, for example --topology=v5p:4x4x4")
    for stage in config.stages:
        if search:
            best = plan(config, stage, topology)
            print(best)
            print(f"fastest: --config.model.remat={best.remat}, {best.rows} rows")
        else:
            print(compiling.compile_stage(config, stage, topology))


def train_stage(
    config: TrainConfig,
    number: int,
    processor: Processor,
    generation: dict[str, Any],
    mesh: Mesh,
    stop: StopRequest,
) -> Params:
    """Train one stage to its end, from its newest checkpoint if there is one."""
    stage = config.stages[number]
    sharding.check(mesh, config.model, stage.rows // stage.microbatches, stage.budget)
    folder = make_stage_folder(config, number)
    settings = stage_settings.describe(config, number, tokenizer_dir(config), generation)
    changes = stage_settings.check_resumed(folder, settings, stage.steps)
    part, parts = sharding.rows_of_process(mesh, jax.process_index())
    with contextlib.ExitStack() as stack:  # closes what is open, also where the next thing cannot be opened
        opened = lambda thing: stack.enter_context(contextlib.closing(thing))
        data = opened(
            make_train_iterator(
                stage.sources,
                processor,
                stage.budget,
                stage.rows // parts,
                seed=config.seed + number,
                process_index=part,
                process_count=parts,
                max_skipped=config.max_skipped,
                cache=config.cache_samples,
                num_threads=config.data_threads,
                prefetch=config.prefetch,
            )
        )
        evaluation = None
        if config.eval_every:
            evaluation = opened(Evaluation(config, stage, processor, generation, mesh))
        tx = optimizer.build(stage.optimizer, stage.steps)
        abstract, shardings = state.shard(
            config.model, stage.trainable, tx, mesh, stage.lora, stage.optimizer.offload
        )
        better = (f"eval/{config.best}", config.best == "loss")
        checkpoints = opened(TrainCheckpoints(folder / "checkpoints", config.keep, config.keep_best, *better))
        if restored := checkpoints.restore(abstract, shardings):
            train_state, data_state = restored
            data.set_state(data_state)
        else:
            places = sharding.parameter_shardings(abstract_params(config.model), mesh)
            params = start_params(config, number, places)
            seed = config.seed + number
            train_state = state.create(params, stage.trainable, tx, shardings, stage.lora, seed)
            del params
        start = int(train_state.step)
        for line in stage_settings.keep(folder, settings, changes, start, stage.steps):
            console.print(line)
        trained = sum(x.size for x in train_state.trainable.values())
        everything = trained + sum(x.size for x in train_state.frozen.values())
        console.print(
            f"\nstage {number + 1}/{len(config.stages)} {stage.name}: training {trained:,} of "
            f"{everything:,} parameters ({', '.join(stage.trainable)})"
            + (f", going on at step {start}" if start else "")
        )

        train_step = make_train_step(
            Ola(config.model), tx, stage.microbatches, shardings, stage.lora, config.spike_factor
        )
        watch = opened(Watch(config, stage, mesh, train_state, folder))
        profile = opened(Profile(config.profile, folder / "profile"))
        for step in range(start + 1, stage.steps + 1):
            profile.before(step)
            batch = watch.take(data)
            train_state, metrics = train_step(train_state, sharding.global_batch(batch.batch, mesh))
            watch.step(step, metrics, batch)  # waits for the step before this one
            profile.after(step, metrics)

            last, stopped, found = step == stage.steps, stop.reached(), {}
            evaluate_now = evaluation is not None and (last or step % config.eval_every == 0)
            # The last step too: where its model cannot be written, the disk being full, nothing is lost.
            save_now = step % config.save_every == 0 or last or stopped or (evaluate_now and config.keep_best)
            if evaluate_now or save_now:
                watch.flush()
            if evaluate_now and not stopped and not watch.failed:
                found = evaluation(train_state)
                watch.write(step, found)
            if save_now or watch.failed:
                watch.flush()
                checkpoints.save(train_state, data.get_state(), found)
            if watch.failed:
                raise OlaError(f"{watch.failed}; saved at step {step}, without the update")
            if stopped:
                checkpoints.wait()
                console.print(f"stopped at step {step} and saved; the same command goes on from here")
                sys.exit(stop.status)
        if config.final_model == "best":
            del train_state  # two would need the memory of two
            train_state = checkpoints.restore_best(abstract, shardings)
            console.print(f"the model is that of step {int(train_state.step)}, the best {config.best}")
    return lora.merge(train_state.params, stage.lora)


def write_model(
    config: TrainConfig, folder: pathlib.Path, params: Params, generation: dict[str, Any]
) -> None:
    """The model that the stage in `folder` ended with; its last state is saved already."""
    released = checkpoint.load_released(config.init_from) if config.init_from else None
    about = config.model, config.processor, params, tokenizer_dir(config), generation, released
    try:
        make_way(folder)
        checkpoint.save(folder / "model", *about)
    except OSError as error:
        raise OlaError(
            f"{folder / 'model'}: cannot be written ({error.strerror or error}); the trained state is saved: "
            "make room, and the same command writes the model"
        ) from error


def open_tokenizer(config: TrainConfig) -> tuple[Processor, dict[str, Any]]:
    """The processor for training, and the generation config that goes into every checkpoint."""
    tokenizer = load_tokenizer(tokenizer_dir(config))
    processor = Processor(config.model, config.processor, tokenizer, preset="train")
    if config.generation:
        return processor, json.loads(pathlib.Path(config.generation).read_text())
    if config.init_from:
        return processor, checkpoint.load_configs(config.init_from)[2]
    raise OlaError("generation is not set and there is no init_from to take it from")


def tokenizer_dir(config: TrainConfig) -> pathlib.Path:
    """Folder of the tokenizer."""
    if config.tokenizer:
        return pathlib.Path(config.tokenizer)
    if config.init_from:
        return pathlib.Path(config.init_from) / "tokenizer"
    raise OlaError("tokenizer is not set and there is no init_from to take it from")


def start_processes(config: DistributedConfig) -> None:
    """Meet the other processes of the run, if there are any."""
    if not config.enabled:
        return
    try:
        jax.distributed.initialize(config.coordinator, config.process_count, config.process_id)
    except (ValueError, RuntimeError) as error:
        raise OlaError(
            f"distributed: {first_line(error)}; outside a cluster that JAX knows, set coordinator, "
            "process_count and process_id"
        ) from error


def accuracy(config: TrainConfig, folder: pathlib.Path, limit: int | None) -> dict[str, Any]:
    """As `evaluate` finds for the stage in `folder`; kept there, and found anew where tasks were added."""
    file = folder / "accuracy.json"
    try:
        known = json.loads(file.read_text())
        if all("accuracy" in known[task.name] for task in config.tasks):
            return {task.name: known[task.name] for task in config.tasks}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not evaluated yet, or not to its end
    found = evaluate(config, folder / "model", limit)
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def evaluate(config: TrainConfig, model_dir: pathlib.Path, limit: int | None) -> dict[str, Any]:
    """Exact-match accuracy of every task, by the model that a stage ended with."""
    model_config, params = checkpoint.load(model_dir)
    processor = Processor.from_pretrained(model_dir, preset="infer")
    questions = read_tasks(config.tasks, processor, limit)
    generation = checkpoint.load_configs(model_dir)[2]
    return score_tasks(Ola(model_config), params, processor, questions, generation, config.eval_rows)


def summarize(
    config: TrainConfig, results: dict[str, Any], finished_before: Sequence[str], seconds: float
) -> None:
    """The accuracy table (shown, as JSON, as PNG), and what to try next."""
    output = pathlib.Path(config.output)
    stages = [stage.name for stage in config.stages]
    last = stage_folder(config, len(stages) - 1) / "model"
    if results:
        console.print(report.table(config.tasks, stages, results))
        report.write_json(output / "report.json", config.tasks, results, seconds=round(seconds, 1))
        report.plot(output / "report.png", config.tasks, stages, results)
        console.print(f"report: {output / 'report.json'}, {output / 'report.png'}")
    if finished_before:
        all_of_them = len(finished_before) == len(stages)
        console.print(
            f"{'nothing was trained: ' if all_of_them else ''}finished before this run: "
            f"{', '.join(finished_before)}"
        )
    console.print(f"done in {seconds / 60:.1f} minutes; checkpoint: {last}")
    console.print(f"next: python -m ola_jax.infer --checkpoint {last} {config.example}", soft_wrap=True)
