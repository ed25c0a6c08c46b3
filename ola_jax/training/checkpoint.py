"""Checkpoints of a training in progress: state and data position, from which it goes on exactly."""

import json
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from ola_jax.errors import OlaError
from ola_jax.training.state import TrainState
from ola_jax.typing import Params

logger = logging.getLogger(__name__)


class TrainCheckpoints:
    """The checkpoints of one stage, written in the background: the newest are kept, and the best.

    The best have the largest `metric`, or the smallest with `smallest`.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        keep: int = 2,
        keep_best: int = 0,
        metric: str = "eval/loss",
        smallest: bool = True,
    ):
        def goodness(metrics: dict[str, float]) -> float:
            value = metrics.get(metric, math.nan)
            return -math.inf if math.isnan(value) else -value if smallest else value

        policies = [managers.LatestN(keep)]
        if keep_best:
            policies.append(managers.BestN(get_metric_fn=goodness, n=keep_best))
        options = ocp.CheckpointManagerOptions(
            best_fn=goodness,
            preservation_policy=managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
        )
        self._directory, self._metric = directory.absolute(), metric
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(
        self, state: TrainState, data_state: dict[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Save after a step; returns before it is on disk. `data_state` is this process's own."""
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave({"processes": _of_all(data_state)})
        )
        # Forced: it is decided already, and Orbax's own decision would ask for preemption once more.
        self._manager.save(int(state.step), args=items, metrics=dict(metrics or {}), force=True)

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint there is; None if none has the metric."""
        step = self._manager.best_step()
        known = step is not None and self._metric in (self._manager.metrics(step) or {})
        return step if known else None

    def restore_best(self, like: TrainState, shardings: TrainState) -> TrainState:
        """The state of the best checkpoint. Raises OlaError if no checkpoint has the metric."""
        self.wait()
        if (step := self.best_step) is None:
            raise OlaError(f"{self._directory}: no checkpoint has {self._metric!r}; evaluate during training")
        return self._restore(step, like, shardings)[0]

    def restore(self, like: TrainState, shardings: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state, split as `shardings` say, and this process's data position; None if none.

        `like` has the structure of the state; shapes alone are enough. The mesh may be another than
        the one it was saved on, the number of processes may not. A checkpoint that cannot be read is
        told, set aside as STEP.damaged, and the one before it taken; raises OlaError if none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for number, step in enumerate(steps):
            try:
                restored = self._restore(step, like, shardings)
                self._set_aside(steps[:number])
                return restored
            except OlaError:
                raise
            except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged store
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                logger.warning("%s: cannot be read (%s)", self._directory / str(step), reason)
        if steps:
            raise OlaError(
                f"{self._directory}: none of the checkpoints {steps} can be read (the last: {reason}); "
                "expected states of this config's model, stage and optimizer: remove the folder to start anew"
            )
        return None

    def _restore(
        self, step: int, like: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        restore_args = jax.tree.map(lambda sharding: ocp.ArrayRestoreArgs(sharding=sharding), shardings)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(item=like, restore_args=restore_args),
            data=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        of_processes = restored["data"]["processes"]
        if len(of_processes) != jax.process_count():
            raise OlaError(
                f"{self._directory / str(step)}: saved by {len(of_processes)} processes, now "
                f"{jax.process_count()}; the data position needs the same number"
            )
        return restored["state"], of_processes[jax.process_index()]

    def _set_aside(self, steps: list[int]) -> None:
        if steps and jax.process_index() == 0:
            for step in steps:
                (self._directory / str(step)).rename(self._directory / f"{step}.damaged")
        if steps and jax.process_count() > 1:
            multihost_utils.sync_global_devices("ola_jax.training.checkpoint.set_aside")
        if steps:
            self._manager.reload()

    def wait(self) -> None:
        """Wait until all is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until all is on disk, and end."""
        self.wait()
        self._manager.close()


def is_training_checkpoint(path: pathlib.Path) -> bool:
    """Whether `path` holds the checkpoints of a stage, or is one of them."""
    return (path / "state").is_dir() or bool(_steps(path))


def restore_params(path: pathlib.Path, like: Params, shardings: Params) -> Params:
    """The parameters alone of a training checkpoint, whatever was trained in it, split as `shardings` say.

    `path` is one checkpoint, or a folder of them whose newest is taken. `like` has their shapes. Raises
    OlaError for a model of another shape, and where adapters are not merged yet.
    """
    if steps := _steps(path):
        path = path / str(steps[-1])
    wanted = {p: x.shape for p, x in traverse_util.flatten_dict(like, sep="/").items()}
    places = traverse_util.flatten_dict(shardings, sep="/")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path.absolute() / "state").item_metadata.tree
        groups = {group: saved[group] for group in ("trainable", "frozen")}
        found = {p: tuple(x.shape) for of_group in groups.values() for p, x in of_group.items()}
        if any(p.startswith("lora/") for p in found):
            raise OlaError(f"{path}: holds adapters; take the model that the stage ended with")
        for p in sorted(wanted.keys() | found.keys()):
            if wanted.get(p) != found.get(p):
                raise OlaError(f"{path}: {p} has shape {found.get(p)}, the config's model {wanted.get(p)}")
        args = {g: {p: ocp.ArrayRestoreArgs(sharding=places[p]) for p in of} for g, of in groups.items()}
        items = ocp.args.PyTreeRestore(item=groups, restore_args=args, partial_restore=True)
        restored = checkpointer.restore(path.absolute() / "state", args=items)
    return traverse_util.unflatten_dict(restored["trainable"] | restored["frozen"], sep="/")


def _steps(path: pathlib.Path) -> list[int]:
    return sorted(int(folder.parent.name) for folder in path.glob("*/state") if folder.parent.name.isdigit())


def _of_all(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states (JSON values) of all processes."""
    if jax.process_count() == 1:
        return [state]
    mine = np.frombuffer(json.dumps(state).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(mine.size)))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
