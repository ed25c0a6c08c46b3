"""Whether a stage is finished: its model is there, whole."""

import json
import pathlib
import shutil
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.training.stage_settings import last_step

# What `checkpoint.save` writes; anything else in the folder is not ours to remove.
_CONTENT = {"config.json", "generation_config.json", "tokenizer", "params", "released.json"}


def is_finished(folder: pathlib.Path, say: Callable[[str], None] = print) -> bool:
    """Whether the model of the stage in `folder` is whole. One that lacks something is to be written again.

    Raises OlaError for a model of another version, for one that is not whole where there is no checkpoint to
    write it from, and where something else is in its place.
    """
    model = folder / "model"
    if not model.exists():
        return False
    if not model.is_dir():
        raise OlaError(f"{model}: found a file, expected the stage's model or nothing; move it away")
    names = {path.name for path in model.iterdir()}
    if not names:
        return False
    reason = _incomplete(model)
    if not reason:
        return True
    if foreign := sorted(names - _CONTENT):
        raise OlaError(
            f"{model}: not a model, and holds {foreign[0]!r}, which training did not write; move it away"
        )
    if last_step(folder) is None:
        raise OlaError(
            f"{folder}: its model is not whole, and there is no checkpoint to write the model from: restore "
            f"one of them, or remove the folder to train the stage again ({reason})"
        )
    say(f"{reason}; the stage's model is written again, from its newest checkpoint")
    return False


def make_way(folder: pathlib.Path) -> None:
    """Removes a model that is not whole, so that it can be written again. All processes call it."""
    model = folder / "model"
    if jax.process_index() == 0 and model.is_dir() and not checkpoint.is_checkpoint(model):
        shutil.rmtree(model)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("ola_jax.training.finished.make_way")


def _incomplete(model: pathlib.Path) -> str:
    """What a model lacks, or ""."""
    try:
        checkpoint.load_configs(model)
        return ""
    except OlaError as error:
        if _is_readable(model / "config.json") and _has_all_files(model):
            raise  # of another version of ola_jax, or no model of ours: writing it again would hide that
        return str(error)


def _is_readable(config: pathlib.Path) -> bool:
    try:
        return isinstance(json.loads(config.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _has_all_files(model: pathlib.Path) -> bool:
    files = json.loads((model / "config.json").read_text(encoding="utf-8")).get("files")
    sizes = files.items() if isinstance(files, dict) else ()
    whole = all((model / name).is_file() and (model / name).stat().st_size == size for name, size in sizes)
    return whole and (model / "tokenizer").is_dir()
