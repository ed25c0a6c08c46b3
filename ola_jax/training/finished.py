"""The end of a stage: it is finished when its model exists and is complete."""

import json
import pathlib
import shutil
from collections.abc import Callable

import jax
from jax.experimental import multihost_utils

from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.training.stage_settings import last_step

# Written by `checkpoint.save`; anything else in the folder is not ours to remove.
_CONTENT = {"config.json", "generation_config.json", "tokenizer", "params", "released.json"}


def is_finished(folder: pathlib.Path, report: Callable[[str], None] = print) -> bool:
    """True if the model of the stage in `folder` is complete; one that is not must be written again.

    Raises OlaError for a model of another version, for an incomplete one without a checkpoint to write it
    from, and if something else has its name.
    """
    model = folder / "model"
    if not model.exists():
        return False
    if not model.is_dir():
        raise OlaError(f"{model}: found a file, expected the stage's model or nothing; move it away")
    names = {path.name for path in model.iterdir()}
    if not names:
        return False
    reason = _find_missing(model)
    if not reason:
        return True
    if foreign := sorted(names - _CONTENT):
        raise OlaError(
            f"{model}: not a model, and holds {foreign[0]!r}, which training did not write; move it away"
        )
    if last_step(folder) is None:
        raise OlaError(
            f"{folder}: its model is incomplete, and there is no checkpoint to write the model from: restore "
            f"one of them, or remove the folder to train the stage again ({reason})"
        )
    report(f"{reason}; the stage's model is written again, from its newest checkpoint")
    return False


def remove_incomplete(folder: pathlib.Path) -> None:
    """Removes an incomplete model, so that it can be written again. All processes call it."""
    model = folder / "model"
    if jax.process_index() == 0 and model.is_dir() and not checkpoint.is_checkpoint(model):
        shutil.rmtree(model)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("ola_jax.training.finished.remove_incomplete")


def _find_missing(model: pathlib.Path) -> str:
    """A message about a part that the model lacks, or ""."""
    try:
        checkpoint.load_configs(model)
        return ""
    except OlaError as error:
        if _is_readable(model / "config.json") and _has_all_files(model):
            raise  # of another version, or not a model of ola_jax: writing it again would hide that
        return str(error)


def _is_readable(config: pathlib.Path) -> bool:
    try:
        return isinstance(json.loads(config.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _has_all_files(model: pathlib.Path) -> bool:
    files = json.loads((model / "config.json").read_text(encoding="utf-8")).get("files")
    sizes = files.items() if isinstance(files, dict) else ()
    complete = all((model / name).is_file() and (model / name).stat().st_size == size for name, size in sizes)
    return complete and (model / "tokenizer").is_dir()
