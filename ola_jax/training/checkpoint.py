"""Checkpoints of a training in progress: state and data position, from which it goes on exactly."""

import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ola_jax.errors import OlaError
from ola_jax.training.state import TrainState

logger = logging.getLogger(__name__)


class TrainCheckpoints:
    """The checkpoints of one stage, written in the background; the newest are kept."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Save after a step; returns before it is on disk. `data_state` is this process's own."""
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave({"processes": _of_all(data_state)})
        )
        self._manager.save(int(state.step), args=items)

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

    def close(self) -> None:
        """Wait until all is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _of_all(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states (JSON values) of all processes."""
    if jax.process_count() == 1:
        return [state]
    mine = np.frombuffer(json.dumps(state).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(mine.size)))
    padded = np.pad(mine, (0, int(sizes.max()) - mine.size))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
