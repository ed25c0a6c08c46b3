"""Trains Ola, stage after stage: `python train.py --config=configs/digits_omni.py`.

Fields are overridden by path: `--config.seed=1 --config.stages.0.steps=500`. A run that was stopped
(Ctrl-C, SIGTERM) goes on where it was when it is started again.

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
from typing import Any

import jax
import rich.console
from jax.sharding import Mesh

from ola_jax import checkpoint, sharding
from ola_jax.data.pipeline import make_train_iterator
from ola_jax.data.processor import Processor
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError, run
from ola_jax.eval import report
from ola_jax.eval.during_training import Evaluation
from ola_jax.eval.tasks import read_tasks, score_tasks
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.training import compile_only, lora, measures, optimizer, state
from ola_jax.training.checkpoint import TrainCheckpoints
from ola_jax.training.config import DistributedConfig, TrainConfig, check
from ola_jax.training.load_config import load_config
from ola_jax.training.plan import plan
from ola_jax.training.profile import Profile
from ola_jax.training.start import stage_folder, start_params
from ola_jax.training.step import make_train_step
from ola_jax.training.stop import StopRequest
from ola_jax.training.watch import Watch
from ola_jax.typing import Params

console = rich.console.Console()


def main() -> None:
    """All stages of the config, each with its evaluation; then a summary."""
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--compile_only", action="store_true")
    parser.add_argument("--topology")
    parser.add_argument("--plan", action="store_true")
    flags, rest = parser.parse_known_args()
    loaded = load_config(rest)
    config = loaded.config
    check(config)
    if flags.compile_only or flags.topology or flags.plan:
        compile_for(config, flags.topology, flags.plan)
        return
    start_processes(config.distributed)
    mesh = sharding.make_mesh(config.mesh)
    if mesh.size < jax.device_count():
        console.print(f"using {mesh.size} of {jax.device_count()} devices; --config.mesh.fsdp=-1 takes all")
    if not measures.peak_is_known(mesh):
        console.print(f"no MFU: ola_jax/hardware.py has no figures of {mesh.devices.flat[0].device_kind!r}")
    if config.tasks and jax.process_count() > 1:
        raise OlaError("tasks: they are answered by one process; set none in a run of several processes")
    if hasattr(loaded.module, "prepare"):
        config = loaded.module.prepare(config)
    processor, generation = open_tokenizer(config)

    results: dict[str, Any] = {}
    stop = StopRequest(console.print)
    for number, stage in enumerate(config.stages):
        folder = stage_folder(config, number)
        model_dir, accuracy_file = folder / "model", folder / "accuracy.json"
        if not model_dir.exists():
            with jax.set_mesh(mesh):
                params = train_stage(config, number, processor, generation, mesh, stop)
            released = checkpoint.load_released(config.init_from) if config.init_from else None
            checkpoint.save(
                model_dir, config.model, config.processor, params, tokenizer_dir(config), generation, released
            )
        if config.tasks and not accuracy_file.exists():
            last = number == len(config.stages) - 1
            found = evaluate(config, model_dir, None if last else config.eval_limit)
            accuracy_file.write_text(json.dumps(found, indent=1) + "\n")
        if config.tasks:
            results[stage.name] = json.loads(accuracy_file.read_text())
            show = {
                name: f"{100 * of_task['accuracy']:.0f} %" for name, of_task in results[stage.name].items()
            }
            console.print(f"after {stage.name}:", ", ".join(f"{k} {v}" for k, v in show.items()))
    summarize(config, results, time.perf_counter() - begin)


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
            print(compile_only.compile_stage(config, stage, topology))


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
    folder = stage_folder(config, number)
    folder.mkdir(parents=True, exist_ok=True)
    part, parts = sharding.rows_of_process(mesh, jax.process_index())
    data = make_train_iterator(
        stage.sources,
        processor,
        stage.budget,
        stage.rows // parts,
        seed=config.seed + number,
        process_index=part,
        process_count=parts,
        max_skipped=config.max_skipped,
        cache=config.cache_samples,
    )
    evaluation = Evaluation(config, stage, processor, generation, mesh) if config.eval_every else None
    tx = optimizer.build(stage.optimizer, stage.steps)
    abstract, shardings = state.shard(
        config.model, stage.trainable, tx, mesh, stage.lora, stage.optimizer.offload
    )
    checkpoints = TrainCheckpoints(
        folder / "checkpoints", config.keep, config.keep_best, f"eval/{config.best}", config.best == "loss"
    )
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
    trained = sum(x.size for x in train_state.trainable.values())
    everything = trained + sum(x.size for x in train_state.frozen.values())
    console.print(
        f"\nstage {number + 1}/{len(config.stages)} {stage.name}: training {trained:,} of {everything:,} "
        f"parameters ({', '.join(stage.trainable)})" + (f", going on at step {start}" if start else "")
    )

    train_step = make_train_step(
        Ola(config.model), tx, stage.microbatches, shardings, stage.lora, config.spike_factor
    )
    watch = Watch(config, stage, mesh, train_state, folder)
    profile = Profile(config.profile, folder / "profile")
    with contextlib.ExitStack() as stack:
        for each in filter(None, (data, evaluation, watch, profile, checkpoints)):
            stack.callback(each.close)
        for step in range(start + 1, stage.steps + 1):
            profile.before(step)
            batch = watch.take(data)
            train_state, metrics = train_step(train_state, sharding.global_batch(batch.batch, mesh))
            watch.step(step, metrics, batch)  # waits for the step before this one
            profile.after(step, metrics)

            last, stopped, found = step == stage.steps, stop.reached(), {}
            evaluate_now = evaluation is not None and (last or step % config.eval_every == 0)
            save_now = step % config.save_every == 0 or stopped or (evaluate_now and config.keep_best)
            if last or evaluate_now or save_now:
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
    if config.enabled:
        jax.distributed.initialize(config.coordinator, config.process_count, config.process_id)


def evaluate(config: TrainConfig, model_dir: pathlib.Path, limit: int | None) -> dict[str, Any]:
    """Exact-match accuracy of every task, by the model that a stage ended with."""
    model_config, params = checkpoint.load(model_dir)
    processor = Processor.from_pretrained(model_dir, preset="infer")
    questions = read_tasks(config.tasks, processor, limit)
    generation = checkpoint.load_configs(model_dir)[2]
    return score_tasks(Ola(model_config), params, processor, questions, generation, config.eval_rows)


def summarize(config: TrainConfig, results: dict[str, Any], seconds: float) -> None:
    """The accuracy table (shown, as JSON, as PNG), and what to try next."""
    output = pathlib.Path(config.output)
    stages = [stage.name for stage in config.stages]
    last = stage_folder(config, len(stages) - 1) / "model"
    if results:
        console.print(report.table(config.tasks, stages, results))
        report.write_json(output / "report.json", config.tasks, results, seconds=round(seconds, 1))
        report.plot(output / "report.png", config.tasks, stages, results)
        console.print(f"report: {output / 'report.json'}, {output / 'report.png'}")
    console.print(f"done in {seconds / 60:.1f} minutes; checkpoint: {last}")
    console.print(f"next: python -m ola_jax.infer --checkpoint {last} {config.example}", soft_wrap=True)


if __name__ == "__main__":
    run(main)
