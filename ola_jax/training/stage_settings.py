"""The settings that a stage began with, stored beside its checkpoints, and their changes when it is resumed.

OUTPUT/0_NAME/settings.json
    {"format": 1, "settings": ..., "changes": [{"after_step": N, SETTING: [OLD, NEW], ...}, ...]}

`settings` are those in use now. Data and tokenizer are identified by digests of their content, so that a file
may move. Only the files of records are read for this, not the media: about a second per GB.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils

from ola_jax.config import to_dict
from ola_jax.data.sources import Source
from ola_jax.errors import OlaError
from ola_jax.training.changes import Changes, check_allowed, compare, describe_changes, training_changes
from ola_jax.training.config import TrainConfig
from ola_jax.training.digests import digest, tokenizer_digest
from ola_jax.training.renamed import move_into_groups

FORMAT = 1
FILE = "settings.json"

# Settings of a run that are described separately, or only give its location.
_APART = ("output", "model", "processor", "stages", "tokenizer", "generation", "init_from", "seed", "tasks")


def describe(
    config: TrainConfig,
    number: int,
    *,
    tokenizer: pathlib.Path,
    generation: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of a stage as JSON values. The digest of a missing file is None.

    `before`: those of the previous stage; None: as they were recorded.
    """
    stage = config.stages[number]
    run = {k: v for k, v in to_dict(config).items() if k not in _APART}
    values = {
        "model": to_dict(config.model),
        "processor": to_dict(config.processor),
        "tokenizer": {"path": str(tokenizer), "sha256": tokenizer_digest(tokenizer)},
        "generation": generation,
        "sources": [_describe_source(source) for source in stage.sources],
        "held_out": [_describe_source(source) for source in stage.held_out],
        "trainable": stage.trainable,
        "lora": to_dict(stage.lora),
        "optimizer": to_dict(stage.optimizer),
        "rows": stage.rows,
        "budget": to_dict(stage.budget),
        "microbatches": stage.microbatches,
        "steps": stage.steps,
        "seed": config.seed,
        "init_from": _describe_start(config, number, before),
        "run": run,
        "versions": {"ola_jax": _version("ola_jax"), "jax": _version("jax")},
    }
    return json.loads(json.dumps(values))


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """The settings that a stage was last trained with; None if there are none."""
    file = folder / FILE
    if not file.exists():
        return None
    return _read(file)["settings"]


def record(
    folder: pathlib.Path, settings: dict[str, Any], changes: Changes, *, step: int, steps: int
) -> list[str]:
    """Writes the settings in use after `step`; returns messages about changes. All processes call it.

    If no step is left, nothing is written: changes have no effect.
    """
    before = read(folder) if step else None
    if jax.process_count() > 1:  # all have read the file
        multihost_utils.sync_global_devices("ola_jax.training.stage_settings.record")
    if before and step >= steps:
        return [
            f"{line} has no effect: all steps are done"
            for line in describe_changes(training_changes(changes))
        ]
    if jax.process_index() == 0:
        _write(folder / FILE, settings, changes, step)
    if step and before is None:
        return [f"{folder}: its settings were not recorded so far; they are recorded from step {step} on"]
    return [f"{line}, from step {step + 1} on" for line in describe_changes(changes.reported)]


def _write(file: pathlib.Path, settings: dict[str, Any], changes: Changes, step: int) -> None:
    history = _read(file)["changes"] if step and file.exists() else []
    if changes.reported:
        history.append({"after_step": step} | {path: list(pair) for path, pair in changes.reported.items()})
    beside = file.with_name(file.name + ".new")
    values = {"format": FORMAT, "settings": settings, "changes": history}
    try:
        beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, file)
    except OSError as error:
        raise OlaError(f"{file}: cannot be written ({error.strerror or error}); make room there") from error


def check_resumed(folder: pathlib.Path, settings: dict[str, Any], steps: int) -> Changes:
    """The changes of a stage that has checkpoints.

    Raises OlaError if they mean another model or other data, or `steps` is less than the newest
    checkpoint's.
    """
    before, step = read(folder), last_step(folder)
    if step is None or before is None:
        return Changes({}, {})
    changes = compare(before, settings)
    check_allowed(folder, changes, "has checkpoints")
    if steps < step:
        raise OlaError(
            f"{folder}: the newest checkpoint is of step {step}, and steps is {steps}; set it to {step} to "
            "end the stage there, or remove this folder to train the stage from its start"
        )
    return changes


def check_finished(folder: pathlib.Path, settings: dict[str, Any]) -> list[str]:
    """Messages about changed settings of a finished stage, which no longer have an effect.

    Raises OlaError if they mean another model or other data.
    """
    before = read(folder)
    if before is None:
        return [f"{folder}: finished, and there is no record of its settings to compare with"]
    changes = compare(before, settings)
    check_allowed(folder, changes, "is finished")
    return [
        f"{line} has no effect: the stage is finished; remove {folder} to train it again"
        for line in describe_changes(training_changes(changes))
    ]


def last_step(folder: pathlib.Path) -> int | None:
    """The newest step in a stage's checkpoints; None if there are none."""
    states = (folder / "checkpoints").glob("*/state")
    return max((int(state.parent.name) for state in states if state.parent.name.isdecimal()), default=None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from its folder


def _describe_source(source: Source) -> dict[str, Any]:
    path = pathlib.Path(source.records)
    return {
        "path": source.records,
        "root": source.root,
        "weight": source.weight,
        "bytes": path.stat().st_size if path.is_file() else None,
        "sha256": digest(path),
    }


def _describe_start(config: TrainConfig, number: int, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """The start of a stage: the previous stage by its settings, a checkpoint by its config.json."""
    if number > 0:
        name = f"{number - 1}_{config.stages[number - 1].name}"
        before = before or read(pathlib.Path(config.output) / name)
        return {"path": name, "sha256": _result_digest(before) if before else None}
    if config.init_from is None:
        return None
    return {"path": config.init_from, "sha256": digest(pathlib.Path(config.init_from) / "config.json")}


def _result_digest(settings: dict[str, Any]) -> str:
    """A digest of the settings that decide the parameters a stage ends with, without the paths of files."""
    values = {k: v for k, v in settings.items() if k not in ("generation", "held_out", "run", "versions")}
    without_paths = lambda values: {k: v for k, v in values.items() if k not in ("path", "root")}
    values["sources"] = [without_paths(source) for source in settings["sources"]]
    for name in ("tokenizer", "init_from"):
        values[name] = values[name] and without_paths(values[name])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] == FORMAT and isinstance(values["settings"], dict):
            values["settings"]["run"] = move_into_groups(values["settings"].get("run", {}))
            return values
        reason = f"format {values['format']!r}, expected {FORMAT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = type(error).__name__
    raise OlaError(
        f"{file}: cannot be read ({reason}); it records the settings that the stage began with: restore it, "
        "or remove it if no setting was changed"
    )
