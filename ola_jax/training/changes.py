"""Changed settings of a stage that is resumed: refused, reported or ignored."""

import dataclasses
import enum
import fnmatch
import pathlib
from typing import Any

from ola_jax.config import OlaConfig, differences, execution_settings
from ola_jax.errors import SettingsError
from ola_jax.training.settings import short


class Meaning(enum.Enum):
    """The meaning of a setting that differs from what the stage began with."""

    REFUSED = "another model or other data"
    REPORTED = "allowed, and reported"
    IGNORED = "no effect on the result"


REFUSED, REPORTED, IGNORED = Meaning.REFUSED, Meaning.REPORTED, Meaning.IGNORED

# The first pattern that a setting's path matches decides; "*" also matches dots.
MEANINGS: tuple[tuple[str, Meaning], ...] = (
    *((f"model.{name}", REPORTED) for name in execution_settings(OlaConfig)),
    ("model*", REFUSED),
    ("processor.media.exif_orientation", REFUSED),
    ("processor.media.joined_audio", REFUSED),
    ("processor.media*", REPORTED),  # limits on media that are decoded
    ("processor*", REFUSED),
    ("tokenizer.path", IGNORED),
    ("tokenizer*", REFUSED),
    ("generation*", REPORTED),
    ("sources*.path", IGNORED),  # the same data in another location
    ("sources*.bytes", IGNORED),  # the digest is compared
    ("sources*.root", REPORTED),
    ("sources*", REFUSED),
    ("held_out*.path", IGNORED),
    ("held_out*.bytes", IGNORED),
    ("held_out*", REPORTED),  # nothing is trained on them
    ("trainable*", REFUSED),
    ("lora*", REFUSED),
    ("optimizer.kind", REFUSED),
    ("optimizer.momentum_dtype", REFUSED),  # it is that of arrays in the checkpoint
    ("optimizer*", REPORTED),
    ("rows", REFUSED),
    ("budget*", REFUSED),
    ("seed", REFUSED),
    ("init_from.path", IGNORED),  # decided by its digest, where there is one
    ("init_from*", REFUSED),
    ("microbatches", REPORTED),
    ("steps", REPORTED),
    ("run.mesh*", REPORTED),
    ("run.bad_steps*", REPORTED),
    ("run.data.max_skipped", REPORTED),
    ("run.data.max_bad_fraction", REPORTED),
    ("run.checkpoint.best", REPORTED),
    ("run.checkpoint.final_model", REPORTED),
    ("run*", IGNORED),
    ("versions*", REPORTED),
)

SHOWN = 3  # refused changes that a message gives with both values; others by name

# The reported changes that lead to other parameters.
_TRAINING = ("model", "optimizer", "microbatches", "steps", "processor", "sources", "held_out")


@dataclasses.dataclass(frozen=True)
class Changes:
    """Differences from the settings that a stage was last trained with: {path: (old, new)}."""

    refused: dict[str, tuple[Any, Any]]
    reported: dict[str, tuple[Any, Any]]


def find_meaning(path: str) -> Meaning:
    """The meaning of a difference in the setting at `path`."""
    return next((meaning for pattern, meaning in MEANINGS if fnmatch.fnmatchcase(path, pattern)), REFUSED)


def compare(before: dict[str, Any], now: dict[str, Any]) -> Changes:
    """Differences of the settings `now` from those `before`; settings that only one has are left out."""
    changes = Changes({}, {})
    for path, (old, new) in differences(before, now).items():
        if not (_knows(before, path) and _knows(now, path)):
            continue  # a setting of an older or newer version of ola_jax
        if path.endswith("sha256") and None in (old, new):
            continue  # one of them is unknown
        if (meaning := find_meaning(path)) is not IGNORED:
            (changes.refused if meaning is REFUSED else changes.reported)[path] = (old, new)
    # A checkpoint of an unfinished stage has no digest: its path is compared instead.
    (old, new) = (values["init_from"] for values in (before, now))
    if old and new and None in (old["sha256"], new["sha256"]) and old["path"] != new["path"]:
        changes.refused["init_from.path"] = (old["path"], new["path"])
    return changes


def describe_changes(changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """A line for each change: "optimizer.learning_rate: 1e-05 -> 2e-05"."""
    return [f"{path.removesuffix('.sha256')}: {_change(path, *pair)}" for path, pair in changes.items()]


def training_changes(changes: Changes) -> dict[str, tuple[Any, Any]]:
    """The reported changes that lead to other parameters."""
    return {path: pair for path, pair in changes.reported.items() if path.startswith(_TRAINING)}


def check_allowed(folder: pathlib.Path, changes: Changes, state: str) -> None:
    """Raises OlaError if the changes mean another model or other data for the stage in `folder`."""
    if not changes.refused:
        return
    shown, others = describe_changes(changes.refused)[:SHOWN], list(changes.refused)[SHOWN:]
    more = f"; also {', '.join(others[:5])}" if others else ""
    more += f" and {len(others) - 5} more" if len(others) > 5 else ""
    raise SettingsError(
        f"{folder}: the stage {state}, and began with other settings: {'; '.join(shown)}{more}; restore "
        "them or choose another output (removing this folder trains the stage again)"
    )


def _knows(values: object, path: str) -> bool:
    """True if `values` has the setting at `path`, or None or a list instead of a part of the path."""
    for name in path.split("."):
        if isinstance(values, dict):
            if name not in values:
                return False
            values = values[name]
        elif isinstance(values, list) and name.isdecimal() and int(name) < len(values):
            values = values[int(name)]
    return True


def _change(path: str, old: Any, new: Any) -> str:
    if path.endswith("sha256"):
        return f"other content ({old[:8]} -> {new[:8]})"
    if any(isinstance(value, list) and any(isinstance(x, dict) for x in value) for value in (old, new)):
        return f"{len(old)} -> {len(new)}"  # files, or rates of parts
    if isinstance(old, dict) or isinstance(new, dict):
        return f"{_presence(old)} -> {_presence(new)}"
    return f"{short(old, 30)} -> {short(new, 30)}"


def _presence(value: object) -> str:
    if isinstance(value, dict):
        return short(value["path"]) if "path" in value else "a part of the model"
    return short(value)
