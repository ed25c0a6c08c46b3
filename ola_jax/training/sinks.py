"""Outputs for the figures of a run: JSON lines always, TensorBoard and Weights & Biases on request."""

import contextlib
import importlib
import json
import logging
import math
import os
import pathlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

from ola_jax.errors import OlaError

logger = logging.getLogger(__name__)


class JsonLines:
    """One JSON object per line, each on disk when `write` returns; values that are not finite become null.

    When a run is resumed after `start`, lines of later steps (they are trained again) and a half-written
    line are removed; so are broken lines, which are reported. Raises OlaError if the file cannot be read
    or written.
    """

    def __init__(self, file: pathlib.Path, start: int):
        self._path = file
        with _writing(file):
            _drop_after(file, start)
            self._file = file.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes a line for the step."""
        line = json.dumps({"step": step} | _finite(dict(values)), allow_nan=False) + "\n"
        left = line.encode()
        with _writing(self._path):
            while left:
                left = left[self._file.write(left) :]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Scalars for `tensorboard --logdir`."""

    def __init__(self, folder: pathlib.Path, start: int):
        # Steps after `start`, of a run that is resumed, are hidden.
        tensorboard = _library("tensorboardX", "tensorboard")
        self._writer = tensorboard.SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Writes the step's scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; a resumed one keeps the id of the first, stored in `folder`."""

    def __init__(self, project: str, name: str, *, folder: pathlib.Path, config: dict[str, Any]):
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
        """Writes the step's scalars."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Flushes and ends the run."""
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


@contextlib.contextmanager
def _writing(file: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OlaError(
            f"{file}: cannot be written ({error.strerror}); make room or make it writable, then run the "
            "same command again"
        ) from error


def _drop_after(file: pathlib.Path, start: int) -> None:
    if not file.exists():
        return
    *lines, _half = file.read_bytes().split(b"\n")
    steps = [_step(line) for line in lines]
    if broken := [number for number, step in enumerate(steps, 1) if step is None]:
        logger.warning(
            "%s: %d broken line%s left out (the first: line %d)",
            *(file, len(broken), " was" if len(broken) == 1 else "s were", broken[0]),
        )
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= start]
    if len(kept) < len(lines) or _half:
        beside = file.with_name(file.name + ".new")
        try:
            beside.write_bytes(b"".join(line + b"\n" for line in kept))
            os.replace(beside, file)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def _step(line: bytes) -> int | None:
    """The step of a line; None for a broken line."""
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
