"""The training loop: one stage, from its newest checkpoint to its end."""

import contextlib
import pathlib
import sys
from typing import Any, Protocol, runtime_checkable

import jax
import optax
import rich.console
from jax.sharding import Mesh

from ola_jax import sharding
from ola_jax.data.pipeline import TrainIterator, make_train_iterator, unite_states
from ola_jax.data.processor import Processor
from ola_jax.errors import OlaError
from ola_jax.eval.during_training import Evaluation
from ola_jax.models.ola import Ola, abstract_params
from ola_jax.run.decisions import Rhythm, decide
from ola_jax.run.inputs import tokenizer_folder
from ola_jax.run.same_plan import check_same_plan
from ola_jax.training import optimizer, stage_settings, state
from ola_jax.training.checkpoint import TrainCheckpoints
from ola_jax.training.config import CheckpointConfig, TrainConfig
from ola_jax.training.lora import apply_adapters
from ola_jax.training.profile import Profile
from ola_jax.training.start import make_stage_folder, start_params
from ola_jax.training.state import TrainState
from ola_jax.training.step import make_train_step
from ola_jax.training.watch import Watch
from ola_jax.typing import Params

console = rich.console.Console()


@runtime_checkable
class Stop(Protocol):
    """A request to stop the run, such as `training.stop.StopRequest`."""

    @property
    def status(self) -> int:
        """The exit status of a run that was stopped."""

    def reached(self) -> bool:
        """True if the run is to stop now; called once after every step."""


def train_stage(
    config: TrainConfig,
    number: int,
    processor: Processor,
    *,
    generation: dict[str, Any],
    mesh: Mesh,
    stop: Stop,
) -> Params:
    """Trains one stage to its end, from its newest checkpoint if there is one."""
    stage = config.stages[number]
    sharding.check_mesh(mesh, config.model, rows=stage.rows // stage.microbatches, budget=stage.budget)
    folder = make_stage_folder(config, number)
    settings = stage_settings.describe(
        config, number, tokenizer=tokenizer_folder(config), generation=generation
    )
    changes = stage_settings.check_resumed(folder, settings, stage.steps)
    with contextlib.ExitStack() as stack:  # closes what is open, even if opening the next thing fails
        opened = lambda thing: stack.enter_context(contextlib.closing(thing))
        data = opened(_training_data(config, number, processor, mesh))
        check_same_plan(data.identity)
        evaluation = None
        if config.evaluation.every:
            evaluation = opened(Evaluation(config, stage, processor, generation=generation, mesh=mesh))
        tx = optimizer.build(stage.optimizer, stage.steps)
        abstract, shardings = state.abstract_state(
            config.model, stage.trainable, tx, mesh=mesh, adapters=stage.lora, offload=stage.optimizer.offload
        )
        checkpoints = opened(_open_checkpoints(config.checkpoint, folder / "checkpoints"))
        if restored := checkpoints.restore(abstract, shardings):
            train_state, data_states = restored
            data.set_state(unite_states(data_states))
            del restored
        else:
            train_state = _first_state(config, number, tx, mesh, shardings)
        start = int(train_state.step)
        for line in stage_settings.record(folder, settings, changes, step=start, steps=stage.steps):
            console.print(line)
        console.print(_introduction(config, number, train_state))

        train_step = make_train_step(
            Ola(config.model),
            tx,
            microbatches=stage.microbatches,
            shardings=shardings,
            adapters=stage.lora,
            spike_factor=config.bad_steps.spike_factor,
        )
        rhythm = Rhythm(
            stage.steps,
            config.checkpoint.save_every,
            config.evaluation.every,
            save_evaluated=config.checkpoint.keep_best > 0,
        )
        watch = opened(Watch(config, stage, train_state, mesh=mesh, folder=folder))
        profile = opened(Profile(config.logging.profile, folder / "profile"))
        for step in range(start + 1, stage.steps + 1):
            profile.before(step)
            batch = watch.take(data)
            on_devices = sharding.global_batch(batch.batch, mesh)
            # Implicit transfers are errors from here on. (Not in `global_batch`, whose transfer counts as
            # implicit with several processes; on CPUs JAX detects none to the host.)
            with jax.transfer_guard("disallow"):
                train_state, metrics = train_step(train_state, on_devices)
                watch.step(step, metrics, batch)  # waits for the previous step
            profile.after(step, metrics)

            stopped = stop.reached()
            if decide(rhythm, step, stopped=stopped, failed=bool(watch.failed)).needs_figures:
                watch.flush()
            due = decide(rhythm, step, stopped=stopped, failed=bool(watch.failed))
            found: dict[str, float] = {}
            if due.evaluate and evaluation is not None:
                found = evaluation(train_state)
                watch.write(step, found)
            if due.save:
                checkpoints.save(train_state, data.get_state(), found)
            if due.end == "failed":
                raise OlaError(f"{watch.failed}; saved at step {step}, without the update")
            if due.end == "stopped":
                checkpoints.wait()
                console.print(f"stopped at step {step} and saved; rerun the same command to resume")
                sys.exit(stop.status)
        if config.checkpoint.final_model == "best":
            del train_state  # there is memory for one only
            train_state = checkpoints.restore_best(abstract, shardings)
            best = config.checkpoint.best
            console.print(f"the model is that of step {int(train_state.step)}, the best {best}")
    return apply_adapters(train_state.params, train_state.adapters, stage.lora)


def _open_checkpoints(config: CheckpointConfig, folder: pathlib.Path) -> TrainCheckpoints:
    smallest = config.best == "loss"
    return TrainCheckpoints(
        folder, keep=config.keep, keep_best=config.keep_best, metric=f"eval/{config.best}", smallest=smallest
    )


def _training_data(config: TrainConfig, number: int, processor: Processor, mesh: Mesh) -> TrainIterator:
    """The rows of this process, from the stage's first batch."""
    stage = config.stages[number]
    part, parts = sharding.rows_of_process(mesh, jax.process_index())
    return make_train_iterator(
        stage.sources,
        processor,
        stage.budget,
        batch_rows=stage.rows,
        seed=config.seed + number,
        process_index=part,
        process_count=parts,
        max_skipped=config.data.max_skipped,
        max_bad_fraction=config.data.max_bad_fraction,
        cache=config.data.cache_samples,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        read_ahead_bytes=config.data.read_ahead_bytes,
        index_folder=pathlib.Path(config.output) / "index",
    )


def _first_state(
    config: TrainConfig, number: int, tx: optax.GradientTransformation, mesh: Mesh, shardings: TrainState
) -> TrainState:
    """The state that a stage begins with: from the previous stage, from `init_from`, or random."""
    stage = config.stages[number]
    param_shardings = sharding.parameter_shardings(abstract_params(config.model), mesh)
    params = start_params(config, number, param_shardings)
    return state.create(
        params, stage.trainable, tx, shardings=shardings, adapters=stage.lora, seed=config.seed + number
    )


def _introduction(config: TrainConfig, number: int, train_state: TrainState) -> str:
    """A line about what is trained, and from which step."""
    stage, start = config.stages[number], int(train_state.step)
    trained = sum(x.size for x in train_state.trained.values())
    everything = trained + sum(x.size for x in train_state.frozen.values())
    return (
        f"\nstage {number + 1}/{len(config.stages)} {stage.name}: training {trained:,} of "
        f"{everything:,} parameters ({', '.join(stage.trainable)})"
        + (f", resuming at step {start}" if start else "")
    )
