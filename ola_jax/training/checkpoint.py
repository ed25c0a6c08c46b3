"""Checkpoints of a run in progress: state and data position, from which it is resumed exactly."""

import contextlib
import json
import logging
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from ola_jax.errors import OlaError, first_line
from ola_jax.storage import describe_unreadable, quiet_orbax, remove_unfinished, storage_failure
from ola_jax.training.state import TrainState
from ola_jax.training.stored import (
    is_training_checkpoint,
    read_data_states,
    read_state,
    restore_params,
    to_stored,
)

__all__ = ["TrainCheckpoints", "is_training_checkpoint", "restore_params"]
Restored = tuple[TrainState, list[dict[str, Any]]]

logger = logging.getLogger(__name__)


class TrainCheckpoints:
    """The checkpoints of one stage, written in the background: the newest are kept, and the best.

    The best have the largest `metric`, or the smallest with `smallest`. If the disk is full or the folder
    cannot be written, `save`, `wait` or `close` raises OlaError: the unfinished checkpoint is removed, and
    earlier ones are unchanged.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
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
            cleanup_tmp_directories=True,  # of a run that was killed while it saved
        )
        self._directory, self._metric = directory.absolute(), metric
        self._saving: int | None = None  # the step that is being written, or was last
        self._closed = False
        self._quiet = contextlib.ExitStack()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._directory).close()  # fails if it cannot be written
            self._set_metrics_aside()
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        except Exception as error:
            if why := storage_failure(error, writing=True):
                raise OlaError(
                    f"{directory}: cannot hold checkpoints ({why}); make the folder writable, or choose "
                    "another output"
                ) from error
            raise
        self._quiet.enter_context(quiet_orbax())

    def save(
        self, state: TrainState, data_state: dict[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Saves after a step; returns before it is on disk. `data_state` is this process's own.

        Raises OlaError if this checkpoint, or the previous one in the background, cannot be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(to_stored(state)),
            data=ocp.args.JsonSave({"processes": _gather_values(data_state)}),
        )
        self.wait()
        self._saving = int(state.step)
        with self._writing():
            # Forced: Orbax's own decision whether to save would check for preemption again.
            self._manager.save(self._saving, args=items, metrics=dict(metrics or {}), force=True)

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint; None if none has the metric."""
        step = self._manager.best_step()
        known = step is not None and self._metric in (self._manager.metrics(step) or {})
        return step if known else None

    def restore_best(self, like: TrainState, shardings: TrainState) -> TrainState:
        """The state of the best checkpoint. Raises OlaError if none has the metric, or it is damaged."""
        self.wait()
        step = _gather_values(self.best_step)[0]
        if step is None:
            raise OlaError(f"{self._directory}: no checkpoint has {self._metric!r}; evaluate during training")
        restored, damage = self._restore(step, like, shardings)
        if restored is None:
            raise OlaError(
                f"{self._directory / str(step)}: the best checkpoint cannot be read ({damage}); set "
                "final_model='last', or remove it to take the next best"
            )
        return restored[0]

    def restore(self, like: TrainState, shardings: TrainState) -> Restored | None:
        """The newest state, sharded by `shardings`, and the data states of the processes that saved; or None.

        `like` has the structure of the state; shapes are enough, and each array has the dtype it was stored
        in. The mesh and the number of processes may differ from those that saved it. A damaged checkpoint is
        reported and set aside as STEP.damaged, and the previous one is used, the same by all processes.
        Raises OlaError if all are damaged, and if one is not damaged but is of another model or optimizer, or
        cannot be read because memory is short or the disk fails.
        """
        seen = [set(steps) for steps in _gather_values(sorted(self._manager.all_steps()))]
        steps = sorted(set.intersection(*seen), reverse=True)
        for number, step in enumerate(steps):
            restored, damage = self._restore(step, like, shardings)
            if restored is not None:
                self._set_aside(steps[:number])
                return restored
            logger.warning("%s: cannot be read (%s)", self._directory / str(step), damage)
        if steps:
            raise OlaError(
                f"{self._directory}: none of the checkpoints {steps} can be read (the last: {damage}); "
                "remove the folder to start the stage again"
            )
        return None

    def _restore(self, step: int, like: TrainState, shardings: TrainState) -> tuple[Restored | None, str]:
        """The checkpoint, or None and the damage; the same in all processes, as are OlaErrors."""
        path = self._directory / str(step)
        restored, damage, refusal = None, "", ""
        cause: Exception | None = None
        try:
            data_states = read_data_states(path / "data")
            restored = read_state(path / "state", like, shardings), data_states
        except OlaError as error:
            refusal, cause = str(error), error
        except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged store
            cause = error
            if why := storage_failure(error):
                refusal = describe_unreadable(path, why)
            else:
                damage = first_line(error)
        found = _gather_values({"refusal": refusal, "damage": damage})
        if refusals := [each["refusal"] for each in found if each["refusal"]]:
            raise OlaError(refusals[0]) from cause
        damages = [each["damage"] for each in found if each["damage"]]
        return (None, damages[0]) if damages else (restored, "")

    def _set_aside(self, steps: list[int]) -> None:
        """Renames damaged checkpoints, because their steps will be trained and saved again."""

        def rename() -> None:
            for step in steps:
                (self._directory / str(step)).rename(_find_free_path(self._directory / f"{step}.damaged"))

        if steps:
            _run_on_first_process(rename)
            self._manager.reload()

    def _set_metrics_aside(self) -> None:
        """Renames metrics that cannot be read: with them no checkpoint could be listed."""

        def rename() -> None:
            for file in sorted(self._directory.glob("*/metrics/metrics")):
                if not _are_metrics(file):
                    logger.warning("%s: cannot be read; this checkpoint cannot be the best", file)
                    file.parent.rename(_find_free_path(file.parent.with_name("metrics.damaged")))

        _run_on_first_process(rename)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._abandon()
            if why := storage_failure(error, writing=True):
                raise OlaError(
                    f"{self._directory}: the checkpoint of step {self._saving} cannot be written ({why}); "
                    "those before it are kept: make room or make the folder writable, then run the "
                    "same command again"
                ) from error
            raise

    def _abandon(self) -> None:
        """Closes, and removes the unfinished checkpoint: it must not be finished later, nor fill the disk."""
        self._closed = True
        for _ in range(5):  # each wait ends with the error of one of the threads; the first is raised
            try:
                self._manager.close()
                break
            except Exception as error:
                logger.debug("%s: %s", self._directory, error)
        if jax.process_index() == 0:
            for folder in self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                remove_unfinished(folder)

    def wait(self) -> None:
        """Waits until everything is on disk. Raises OlaError if it cannot be written."""
        if not self._closed:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and closes. Raises OlaError once if it cannot be written."""
        if not self._closed:
            self.wait()
            self._manager.close()
            self._closed = True
            self._quiet.close()


def _find_free_path(path: pathlib.Path) -> pathlib.Path:
    """The path, or the first of PATH-2, PATH-3, ... that does not exist."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _are_metrics(file: pathlib.Path) -> bool:
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(values, dict) and all(isinstance(value, int | float) for value in values.values())


def _run_on_first_process(change: Callable[[], None]) -> None:
    """Runs `change` in process 0; all wait for it, and raise OlaError if it fails."""
    failure, cause = "", None
    if jax.process_index() == 0:
        try:
            change()
        except OSError as error:
            failure, cause = f"{error.filename}: cannot be renamed or read ({error.strerror})", error
    if failure := _gather_values(failure)[0]:
        raise OlaError(f"{failure}; make the folder writable, and run the same command again") from cause


def _gather_values(value: Any) -> list[Any]:
    """The values (JSON) of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(mine.size)))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
