"""What a stage began with, kept beside its checkpoints, and what a change of it means when it is resumed.

OUTPUT/0_NAME/settings.json
    {"format": 1, "settings": ..., "changes": [{"after_step": N, SETTING: [OLD, NEW], ...}, ...]}

`settings` are those in use now; data and tokenizer are in them by the digest of their content, so that a file
may move. Only the files of records are read for that, not the media: about a second for each GB.
"""

import dataclasses
import enum
import fnmatch
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils

import ola_jax
from ola_jax.config import differences, to_dict
from ola_jax.data.pipeline import Source
from ola_jax.errors import OlaError
from ola_jax.training.config import TrainConfig
from ola_jax.training.settings import short

FORMAT = 1
FILE = "settings.json"


class Meaning(enum.Enum):
    """What it means that a setting differs from what the stage began with."""

    REFUSED = "another model or other data"
    REPORTED = "allowed, and reported"
    IGNORED = "of no interest"


REFUSED, REPORTED, IGNORED = Meaning.REFUSED, Meaning.REPORTED, Meaning.IGNORED

# The first pattern that a setting's path matches decides; "*" also matches dots.
MEANINGS: tuple[tuple[str, Meaning], ...] = (
    ("model.dtype", REPORTED),
    ("model.remat", REPORTED),
    ("model.attention", REPORTED),
    ("model.pooling", REPORTED),
    ("model*", REFUSED),
    ("processor.media*", REPORTED),  # the largest media that are decoded
    ("processor*", REFUSED),
    ("tokenizer.path", IGNORED),
    ("tokenizer*", REFUSED),
    ("generation*", REPORTED),
    ("sources*.path", IGNORED),  # the same data at another place
    ("sources*.bytes", IGNORED),  # the digest says more
    ("sources*.root", REPORTED),
    ("sources*", REFUSED),
    ("held_out*.path", IGNORED),
    ("held_out*.bytes", IGNORED),
    ("held_out*", REPORTED),  # nothing is trained on them
    ("trainable*", REFUSED),
    ("lora*", REFUSED),
    ("optimizer.kind", REFUSED),
    ("optimizer.momentum_dtype", REFUSED),  # of what the checkpoint holds
    ("optimizer*", REPORTED),
    ("rows", REFUSED),
    ("budget*", REFUSED),
    ("seed", REFUSED),
    ("init_from.path", IGNORED),  # decided by its digest, where there is one
    ("init_from*", REFUSED),
    ("microbatches", REPORTED),
    ("steps", REPORTED),
    ("run.mesh*", REPORTED),
    ("run.bad_step", REPORTED),
    ("run.max_bad_steps", REPORTED),
    ("run.spike_factor", REPORTED),
    ("run.max_skipped", REPORTED),
    ("run.best", REPORTED),
    ("run.final_model", REPORTED),
    ("run*", IGNORED),
    ("versions*", REPORTED),
)

# Of the reported: what would have made other parameters.
_TRAINING = ("model", "optimizer", "microbatches", "steps", "processor", "sources", "held_out")

# Settings of a run that are described apart, or that say where it is rather than what.
_APART = ("output", "model", "processor", "stages", "tokenizer", "generation", "init_from", "seed", "tasks")


@dataclasses.dataclass(frozen=True)
class Changes:
    """How settings differ from those that a stage was last trained with: {path: (old, new)}."""

    refused: dict[str, tuple[Any, Any]]
    reported: dict[str, tuple[Any, Any]]


def meaning(path: str) -> Meaning:
    """Of a difference in the setting at `path`."""
    return next((of for pattern, of in MEANINGS if fnmatch.fnmatchcase(path, pattern)), REFUSED)


def describe(
    config: TrainConfig, number: int, tokenizer: pathlib.Path, generation: dict[str, Any]
) -> dict[str, Any]:
    """The settings of a stage as JSON values. A file that is not there has None for its digest."""
    stage = config.stages[number]
    run = {k: v for k, v in to_dict(config).items() if k not in _APART}
    values = {
        "model": to_dict(config.model),
        "processor": to_dict(config.processor),
        "tokenizer": {"path": str(tokenizer), "sha256": tokenizer_digest(tokenizer)},
        "generation": generation,
        "sources": [_source(source) for source in stage.sources],
        "held_out": [_source(source) for source in stage.held_out],
        "trainable": stage.trainable,
        "lora": to_dict(stage.lora),
        "optimizer": to_dict(stage.optimizer),
        "rows": stage.rows,
        "budget": to_dict(stage.budget),
        "microbatches": stage.microbatches,
        "steps": stage.steps,
        "seed": config.seed,
        "init_from": _beginning(config, number),
        "run": run,
        "versions": {"ola_jax": ola_jax.__version__, "jax": jax.__version__},
    }
    return json.loads(json.dumps(values))


def compare(before: dict[str, Any], now: dict[str, Any]) -> Changes:
    """How the settings of `now` differ from those of `before`; what one of them does not know is left out."""
    changes = Changes({}, {})
    for path, (old, new) in differences(before, now).items():
        if not (_knows(before, path) and _knows(now, path)):
            continue  # a setting that an older or newer version of ola_jax has not
        if path.endswith("sha256") and None in (old, new):
            continue  # nothing is known of one of them
        if (of := meaning(path)) is not IGNORED:
            (changes.refused if of is REFUSED else changes.reported)[path] = (old, new)
    # A checkpoint of a stage in training has no digest; its path must do.
    (old, new) = (values["init_from"] for values in (before, now))
    if old and new and None in (old["sha256"], new["sha256"]) and old["path"] != new["path"]:
        changes.refused["init_from.path"] = (old["path"], new["path"])
    return changes


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """The settings that a stage was last trained with; None where there are none."""
    file = folder / FILE
    if not file.exists():
        return None
    return _read(file)["settings"]


def keep(
    folder: pathlib.Path, settings: dict[str, Any], changes: Changes, step: int, steps: int
) -> list[str]:
    """Writes the settings that are in use after `step`; what to say of changes. All processes call it.

    Where no step is left, nothing is written: what has changed has no effect.
    """
    before = read(folder) if step else None
    if jax.process_count() > 1:  # all have read what was there
        multihost_utils.sync_global_devices("ola_jax.training.stage_settings.keep")
    if before and step >= steps:
        return [f"{line} has no effect: all steps are done" for line in lines(_of_training(changes))]
    if jax.process_index() == 0:
        _write(folder / FILE, settings, changes, step)
    if step and before is None:
        return [f"{folder}: its settings were not recorded so far; they are from step {step} on"]
    return [f"{line}, from step {step + 1} on" for line in lines(changes.reported)]


def _write(file: pathlib.Path, settings: dict[str, Any], changes: Changes, step: int) -> None:
    history = _read(file)["changes"] if step and file.exists() else []
    if changes.reported:
        history.append({"after_step": step} | {path: list(pair) for path, pair in changes.reported.items()})
    beside = file.with_name(file.name + ".new")
    values = {"format": FORMAT, "settings": settings, "changes": history}
    beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, file)


def lines(changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """Each change in words: "optimizer.learning_rate: 1e-05 -> 2e-05"."""
    return [f"{path.removesuffix('.sha256')}: {_change(path, *pair)}" for path, pair in changes.items()]


def check_resumed(folder: pathlib.Path, settings: dict[str, Any], steps: int) -> Changes:
    """The changes of a stage that has checkpoints.

    Raises OlaError where they make another model or other data, or `steps` are behind the newest checkpoint.
    """
    before, step = read(folder), last_step(folder)
    if step is None or before is None:
        return Changes({}, {})
    changes = compare(before, settings)
    _refuse(folder, changes, "has checkpoints")
    if steps < step:
        raise OlaError(
            f"{folder}: the newest checkpoint is of step {step}, and steps is {steps}; set it to {step} to "
            "end the stage there, or remove this folder to train the stage from its start"
        )
    return changes


def check_finished(folder: pathlib.Path, settings: dict[str, Any]) -> list[str]:
    """What to say of the settings of a stage that is finished: those that have no effect any more.

    Raises OlaError where they make another model or other data.
    """
    before = read(folder)
    if before is None:
        return [f"{folder}: finished, and there is no record of its settings to compare with"]
    changes = compare(before, settings)
    _refuse(folder, changes, "is finished")
    return [
        f"{line} has no effect: the stage is finished; remove {folder} to train it again"
        for line in lines(_of_training(changes))
    ]


def _of_training(changes: Changes) -> dict[str, tuple[Any, Any]]:
    return {path: of for path, of in changes.reported.items() if path.startswith(_TRAINING)}


def _refuse(folder: pathlib.Path, changes: Changes, state: str) -> None:
    if not changes.refused:
        return
    shown = lines(changes.refused)
    more = f"; and {len(shown) - 5} more" if len(shown) > 5 else ""
    raise OlaError(
        f"{folder}: the stage {state}, and began with other settings: {'; '.join(shown[:5])}{more}; restore "
        "them, choose another output, or remove this folder to train the stage from its start"
    )


def tokenizer_digest(folder: pathlib.Path) -> str | None:
    """Of the files that make the tokenizer; None where there are none."""
    names = ["tokenizer.json"]
    if not (folder / names[0]).is_file():
        names = ["vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"]
    digests = [digest(folder / name) for name in names]
    return hashlib.sha256("".join(of or "-" for of in digests).encode()).hexdigest() if any(digests) else None


def digest(path: pathlib.Path) -> str | None:
    """SHA-256 of a file, or of all files in a folder with their names; None where there is none."""
    try:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file())
            of = "".join(f"{file.relative_to(path)}\0{digest(file)}\n" for file in inside)
            return hashlib.sha256(of.encode()).hexdigest()
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # in blocks
    except OSError:
        return None


def last_step(folder: pathlib.Path) -> int | None:
    """The newest step in a stage's checkpoints; None where there are none."""
    states = (folder / "checkpoints").glob("*/state")
    return max((int(state.parent.name) for state in states if state.parent.name.isdecimal()), default=None)


def _source(source: Source) -> dict[str, Any]:
    path = pathlib.Path(source.records)
    return {
        "path": source.records,
        "root": source.root,
        "weight": source.weight,
        "bytes": path.stat().st_size if path.is_file() else None,
        "sha256": digest(path),
    }


def _beginning(config: TrainConfig, number: int) -> dict[str, Any] | None:
    """What the stage begins with: the stage before by its settings, a checkpoint by its config.json."""
    if number > 0:
        name = f"{number - 1}_{config.stages[number - 1].name}"
        before = read(pathlib.Path(config.output) / name)
        return {"path": name, "sha256": _of_result(before) if before else None}
    if config.init_from is None:
        return None
    return {"path": config.init_from, "sha256": digest(pathlib.Path(config.init_from) / "config.json")}


def _of_result(settings: dict[str, Any]) -> str:
    """Digest of the settings that decide what a stage ends with, wherever its files lie."""
    values = {k: v for k, v in settings.items() if k not in ("generation", "held_out", "run", "versions")}
    without_places = lambda of: {k: v for k, v in of.items() if k not in ("path", "root")}
    values["sources"] = [without_places(source) for source in settings["sources"]]
    for name in ("tokenizer", "init_from"):
        values[name] = values[name] and without_places(values[name])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _knows(values: Any, path: str) -> bool:
    """Whether `values` has the setting at `path`, or a part above it is None or a list as a whole."""
    for name in path.split("."):
        if isinstance(values, dict):
            if name not in values:
                return False
            values = values[name]
        else:
            return True
    return True


def _change(path: str, old: Any, new: Any) -> str:
    if path.endswith("sha256"):
        return f"other content ({old[:8]} -> {new[:8]})"
    if isinstance(old, list) and isinstance(new, list) and len(old) != len(new) and "sources" in path:
        return f"{len(old)} -> {len(new)}"
    if isinstance(old, dict) or isinstance(new, dict):
        return f"{_presence(old)} -> {_presence(new)}"
    return f"{short(old)} -> {short(new)}"


def _presence(value: Any) -> str:
    return "none" if value is None else "a part of the model" if isinstance(value, dict) else short(value)


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] == FORMAT and isinstance(values["settings"], dict):
            return values
        reason = f"format {values['format']!r}, expected {FORMAT}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
    raise OlaError(
        f"{file}: cannot be read ({reason}); it says what the stage began with: restore it, or remove it if "
        "no setting was changed"
    )
