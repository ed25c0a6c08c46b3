"""Running an arm with a seed, once: its result is a JSON file, and a run that has one is not repeated."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import jax

from configs import digits_omni as demo
from examples.ablations import recipe
from examples.ablations.arms import ARMS, Arm
from examples.digits_omni.build import VERSION
from ola_jax import json_files
from ola_jax.config import to_dict
from ola_jax.errors import OlaError
from ola_jax.run import stages
from ola_jax.run.scores import evaluate
from ola_jax.training.check_config import check_config
from ola_jax.training.config import EvalTask, TrainConfig
from ola_jax.training.start import stage_folder


def run_arm(arm: Arm, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """The result of an arm and a seed, trained and scored now unless it is in `folder` already.

    A run that was interrupted continues from its last checkpoint. Raises OlaError for a result of other
    settings than today's.
    """
    data = folder / "demo"
    tasks = demo.prepare(demo.get_config(str(data)), recipe.SCALE).tasks
    config = recipe.get_config(arm, seed, data, folder / "unfinished" / f"{arm.name}_{seed}")
    file, settings = result_file(folder, arm, seed), describe_settings(config, data)
    if file.exists():
        return read_result(file, settings)
    check_config(config)
    stages.run(config)
    wanted = tuple(task for name in recipe.TASKS for task in tasks if task.name == name)
    model = stage_folder(config, len(config.stages) - 1) / "model"
    scores = evaluate(dataclasses.replace(config, tasks=wanted), model, recipe.QUESTIONS)
    result = {
        "arm": arm.name,
        "seed": seed,
        "scores": {name: score["accuracy"] for name, score in scores.items()},
        "questions": {name: score["questions"] for name, score in scores.items()},
        "chance": _chance(wanted),
        **_training_figures(config),
        "settings": settings,
        "versions": {name: importlib.metadata.version(name) for name in ("ola_jax", "jax", "flax", "optax")},
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {jax.devices()[0].device_kind}",
        "date": datetime.date.today().isoformat(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.partial")
    json_files.write_object(beside, result)
    beside.replace(file)
    shutil.rmtree(config.output)
    jax.clear_caches()
    return result


def result_file(folder: pathlib.Path, arm: Arm, seed: int) -> pathlib.Path:
    """The file of a result."""
    return folder / "results" / f"{arm.name}_{seed}.json"


def read_result(file: pathlib.Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A stored result. Raises OlaError if it was made with other settings."""
    result = json_files.read_object(file)
    if not _agree(result.get("settings"), settings):
        raise OlaError(f"{file}: made with other settings; remove it, or choose another --output")
    return result


def read_results(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All results in `folder`, by arm and seed. Raises OlaError if one was made with other settings."""
    found = []
    for arm in ARMS:
        for file in sorted((folder / "results").glob(f"{arm.name}_*.json")):
            seed = file.stem.removeprefix(f"{arm.name}_")
            if seed.isdecimal():
                config = recipe.get_config(arm, int(seed), folder / "demo", folder)
                found.append(read_result(file, describe_settings(config, folder / "demo")))
    return found


def describe_settings(config: TrainConfig, data: pathlib.Path) -> dict[str, Any]:
    """The settings that decide the result of a run, as JSON values without the paths of its folders."""
    values = {
        "model": to_dict(config.model),
        "processor": to_dict(config.processor),
        "stages": [to_dict(stage) for stage in config.stages],
        "dataset": VERSION,
        "scale": recipe.SCALE,
        "questions": recipe.QUESTIONS,
    }
    return json.loads(json.dumps(values).replace(f"{data}/", ""))


def _agree(before: Any, now: Any) -> bool:
    """True if all settings that both have are equal; a later version may have more."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_agree(before[name], now[name]) for name in before.keys() & now.keys())
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_agree, before, now))
    return bool(before == now)


def _training_figures(config: TrainConfig) -> dict[str, int | float]:
    """Steps, tokens and labelled tokens of all stages, and their time."""
    lines = [
        json.loads(line)
        for number in range(len(config.stages))
        for line in (stage_folder(config, number) / "metrics.jsonl").read_text().splitlines()
    ]
    total = lambda name: sum(line[name] for line in lines)
    return {
        "steps": len(lines),
        "tokens": total("tokens"),
        "labelled_tokens": total("targets"),
        "seconds": round(total("step_seconds"), 1),
    }


def _chance(tasks: tuple[EvalTask, ...]) -> dict[str, float]:
    return {task.name: task.chance for task in tasks}


def _commit() -> str | None:
    """The commit of this checkout, with "+" if files differ from it; None outside of git."""
    here = pathlib.Path(__file__).parent
    git = lambda *args: subprocess.run(
        ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
    )
    try:
        changed = git("status", "--porcelain").stdout.strip()
        return git("rev-parse", "--short", "HEAD").stdout.strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
