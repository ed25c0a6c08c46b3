"""Checkpoints of a training in progress: state and data position, from which it goes on exactly."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from ola_jax.training.state import TrainState


class TrainCheckpoints:
    """The checkpoints of one stage, written in the background; the two newest are kept."""

    def __init__(self, directory: pathlib.Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Save after a step; returns before it is on disk."""
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), data=ocp.args.JsonSave(data_state))
        self._manager.save(int(state.step), args=items)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state (shapes, dtypes and places as in `like`) and data position; None if none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args),
            data=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Wait until all is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
