"""Released checkpoints for the tests: the golden's, changed and written again."""

import dataclasses
import functools
import json
import pathlib
import shutil
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert.import_job import prepare_import
from ola_jax.convert.importer import read_params
from ola_jax.convert.progress import Progress, ignore
from ola_jax.typing import Params
from tests import golden

HF = golden.VISIBLE / "hf"
WHISPER_FILE = golden.VISIBLE / "whisper.pt"
BEATS_FILE = golden.VISIBLE / "beats.pt"
SPEECH_ENCODER = "model.speech_encoder."
WHISPER = f"{SPEECH_ENCODER}whisper_model."
BEATS = f"{SPEECH_ENCODER}beats_model."
SPEECH = {"whisper": WHISPER_FILE, "beats": BEATS_FILE}  # of prepare_import
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Released:
    """A released checkpoint, imported into memory."""

    config: OlaConfig
    processor_config: ProcessorConfig
    params: Params
    generation_config: dict[str, Any]
    notes: tuple[str, ...]


def read_released(
    source: pathlib.Path, *, check_finite: bool = False, progress: Progress = ignore, **options: Any
) -> Released:
    """Imports a checkpoint into memory; `options`: of `prepare_import`."""
    job = prepare_import(source, **options)
    params = read_params(job, check_finite=check_finite, progress=progress)
    return Released(job.config, job.processor_config, params, job.generation_config, job.notes)


@functools.cache
def _golden_tensors() -> Tensors:
    return load_file(HF / "model.safetensors")


def golden_tensors() -> Tensors:
    """A fresh dict of the golden's tensors."""
    return dict(_golden_tensors())


@functools.cache
def whisper_content() -> dict[str, Any]:
    """{dims, model_state_dict}."""
    return torch.load(WHISPER_FILE, weights_only=True)


@functools.cache
def beats_content() -> dict[str, Any]:
    """{cfg, model}."""
    return torch.load(BEATS_FILE, weights_only=True)


def write(
    directory: pathlib.Path,
    change: Callable[[Tensors], None] = lambda tensors: None,
    config: Mapping[str, Any] = types.MappingProxyType({}),
    shards: int = 0,
) -> pathlib.Path:
    """The golden's checkpoint with changes to its tensors and config.json (None: key out), or in shards."""
    directory.mkdir(parents=True)
    for file in HF.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copyfile(file, directory / file.name)
    values = json.loads((HF / "config.json").read_text()) | dict(config)
    (directory / "config.json").write_text(
        json.dumps({key: value for key, value in values.items() if value is not None})
    )
    tensors = golden_tensors()
    change(tensors)
    if not shards:
        save_file(tensors, directory / "model.safetensors")
        return directory
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        save_file(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def without_speech_encoder(tensors: Tensors) -> None:
    """A checkpoint that leaves the speech encoder to separate files."""
    for key in [key for key in tensors if key.startswith(SPEECH_ENCODER)]:
        del tensors[key]


def without_speech(tensors: Tensors) -> None:
    """A checkpoint like Ola-Image, without speech parts."""
    for key in [key for key in tensors if ".speech_" in key]:
        del tensors[key]
