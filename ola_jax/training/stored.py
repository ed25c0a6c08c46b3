"""Reading one checkpoint of a run in progress: its state as it is stored, or only its parameters."""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util

from ola_jax.errors import OlaError, first_line
from ola_jax.storage import describe_unreadable, quiet_orbax, storage_failure
from ola_jax.training.lora import is_adapter, name_trained, split_trained
from ola_jax.training.state import TrainState
from ola_jax.typing import Params


def to_stored(state: TrainState) -> dict[str, Any]:
    """The tree that a checkpoint holds, with adapters by name among the trainable parameters."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    adapters = fields.pop("adapters")
    return fields | {"trainable": name_trained(state.trainable, adapters)}


def from_stored(tree: dict[str, Any]) -> TrainState:
    """The inverse of `to_stored`."""
    trainable, adapters = split_trained(tree["trainable"])
    return TrainState(**tree | {"trainable": trainable, "adapters": adapters})


def read_state(folder: pathlib.Path, like: TrainState, shardings: TrainState) -> TrainState:
    """The state in `folder`, each array in the dtype it is stored in, sharded by `shardings`.

    `like` has the structure and shapes. Raises OlaError if the state is of another model, stage or optimizer.
    No process waits for another.
    """
    handler = ocp.PyTreeCheckpointHandler()
    stored, wanted = _by_name(handler.metadata(folder).tree), to_stored(like)
    _check_same(folder, stored, _by_name(wanted))
    as_stored = lambda keys, leaf: jax.ShapeDtypeStruct(leaf.shape, stored[_name(keys)].dtype)
    item = jax.tree_util.tree_map_with_path(as_stored, wanted)
    args = jax.tree.map(lambda sharding: ocp.ArrayRestoreArgs(sharding=sharding), to_stored(shardings))
    return from_stored(handler.restore(folder, args=ocp.args.PyTreeRestore(item=item, restore_args=args)))


def read_data_states(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The data state of each process that saved."""
    states = ocp.JsonCheckpointHandler().restore(folder)["processes"]
    if not isinstance(states, list) or not states or not all(isinstance(each, dict) for each in states):
        raise ValueError(f"{folder}: found no data state of each process")
    return states


def is_training_checkpoint(path: pathlib.Path) -> bool:
    """True if `path` holds the checkpoints of a stage, or is one of them."""
    return (path / "state").is_dir() or bool(_steps(path))


def restore_params(path: pathlib.Path, like: Params, shardings: Params) -> Params:
    """The parameters of a training checkpoint, whichever of them were trained, sharded by `shardings`.

    `path` is one checkpoint, or a folder of them whose newest is used. `like` has their shapes; dtypes are
    those stored. Raises OlaError for a model of another shape, for adapters that are not applied yet, and if
    the checkpoint cannot be read.
    """
    path = path / str(steps[-1]) if (steps := _steps(path)) else path
    try:
        with quiet_orbax():
            return _read_params(path, like, shardings)
    except OlaError:
        raise
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged store
        if why := storage_failure(error):
            raise OlaError(describe_unreadable(path, why)) from error
        reason = first_line(error)
        others = f"{', '.join(map(str, steps[:-1]))} beside it" if steps[:-1] else "another checkpoint"
        raise OlaError(f"{path}: is damaged ({reason}); take {others}") from error


def _read_params(path: pathlib.Path, like: Params, shardings: Params) -> Params:
    wanted = {p: x.shape for p, x in traverse_util.flatten_dict(like, sep="/").items()}
    by_path = traverse_util.flatten_dict(shardings, sep="/")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path.absolute() / "state").item_metadata.tree
        groups = {name: saved[name] for name in ("trainable", "frozen")}
        found = {p: tuple(x.shape) for group in groups.values() for p, x in group.items()}
        if any(map(is_adapter, found)):
            raise OlaError(f"{path}: holds adapters; take the model that the stage ended with")
        for p in sorted(wanted.keys() | found.keys()):
            if wanted.get(p) != found.get(p):
                raise OlaError(f"{path}: {p} has shape {found.get(p)}, the config's model {wanted.get(p)}")
        args = {
            name: {p: ocp.ArrayRestoreArgs(sharding=by_path[p]) for p in group}
            for name, group in groups.items()
        }
        items = ocp.args.PyTreeRestore(item=groups, restore_args=args, partial_restore=True)
        restored = checkpointer.restore(path.absolute() / "state", args=items)
    return traverse_util.unflatten_dict(restored["trainable"] | restored["frozen"], sep="/")


def _steps(path: pathlib.Path) -> list[int]:
    return sorted(int(folder.parent.name) for folder in path.glob("*/state") if folder.parent.name.isdigit())


def _check_same(folder: pathlib.Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises OlaError for the first array that differs; frozen parameters may have any dtype."""
    for name in [*wanted, *(name for name in stored if name not in wanted)]:
        shapes_only = name.startswith("frozen/")
        there, here = (_kind(leaves.get(name), shapes_only) for leaves in (stored, wanted))
        if there != here:
            raise OlaError(
                f"{folder.parent}: {name} is {there} there, {here} in the config; a stage is resumed with "
                "the model, trainable parameters, adapters and optimizer it began with: set them back, or "
                "choose another output"
            )


def _kind(leaf: Any, shapes_only: bool) -> str:
    if leaf is None:
        return "absent"
    shape = ", ".join(map(str, leaf.shape))
    return f"[{shape}]" if shapes_only else f"{leaf.dtype}[{shape}]"


def _by_name(tree: dict[str, Any]) -> dict[str, Any]:
    """The leaves of a stored tree by name, in the order of its fields, in which differences are reported."""
    fields = [{field: value} for field, value in tree.items()]
    leaves = [leaf for field in fields for leaf in jax.tree_util.tree_flatten_with_path(field)[0]]
    return {_name(keys): leaf for keys, leaf in leaves}


def _name(keys: tuple[Any, ...]) -> str:
    """The name of a leaf of a stored tree, such as "opt_state/1/mu/llm/norm/scale"."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in keys)
