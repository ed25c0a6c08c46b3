"""Where the figures of a run go: JSON lines always, TensorBoard and Weights & Biases if asked for."""

import importlib
import json
import math
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

from ola_jax.errors import OlaError


class JsonLines:
    """One JSON object a line, each on disk when `write` returns; what is not finite becomes null.

    Where a run goes on after `start`, lines of later steps (they are done again) and a half-written
    line are removed.
    """

    def __init__(self, file: pathlib.Path, start: int):
        _drop_after(file, start)
        self._file = file.open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A line for the step."""
        self._file.write(json.dumps({"step": step} | _finite(dict(values)), allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Scalars for `tensorboard --logdir`."""

    def __init__(self, folder: pathlib.Path, start: int):
        # Steps after `start`, of a run that goes on, are hidden.
        tensorboard = _library("tensorboardX", "tensorboard")
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Scalars of the step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; one that goes on has the id of the first, kept in `folder`."""

    def __init__(self, project: str, name: str, folder: pathlib.Path, config: dict[str, Any]):
        wandb = _library("wandb", "wandb")
        file = folder / "wandb_id"
        known = file.exists()
        self._run = wandb.init(
            project=project,
            name=name,
            id=file.read_text() if known else None,
            resume="allow" if known else None,
            dir=str(folder),
            config=config,
        )
        file.write_text(self._run.id)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Scalars of the step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run and write what is left."""
        self._run.finish()


Sink = JsonLines | TensorBoard | WeightsAndBiases


def _library(name: str, option: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise OlaError(
            f"{option}: the library {name} is not installed; run: pip install 'ola_jax[watch]', or leave "
            f"{option} out of the config"
        ) from error


def _drop_after(file: pathlib.Path, start: int) -> None:
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
    if kept != lines:
        beside = file.with_name(file.name + ".new")
        beside.write_text("".join(kept), encoding="utf-8")
        os.replace(beside, file)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(of) for key, of in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
