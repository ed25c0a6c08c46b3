"""Outputs of a JAX checkpoint compared with PyTorch: logits, and the features of images and audio."""

import dataclasses
import gc
import json
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ola_jax import checkpoint
from ola_jax.batch import OlaBatch
from ola_jax.config import architecture
from ola_jax.convert.import_job import ImportJob
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError
from ola_jax.eval import torch_parts
from ola_jax.models.ola import Ola
from ola_jax.models.oryx_vit import normalize
from ola_jax.models.spectrogram import log_mel
from ola_jax.typing import Array, Float, HostArray, Shaped


@dataclasses.dataclass(frozen=True)
class LogitAgreement:
    """Agreement of the logits of one prompt, over all of its positions."""

    prompt: str
    positions: int
    max_abs: float  # of the difference of logits
    relative: float  # norm of the difference over norm of PyTorch's logits
    top1: float  # share of positions whose most likely token is the same
    kl: float  # mean of KL(PyTorch || JAX), nats


@dataclasses.dataclass(frozen=True)
class FeatureAgreement:
    """Agreement of one encoder's features of a prompt's media."""

    prompt: str
    encoder: Literal["vision", "whisper"]
    vectors: int
    max_abs: float
    relative: float


def read_prompts(file: pathlib.Path) -> list[dict[str, Any]]:
    """A JSON array of texts, or of records as Ola's data has them (media paths relative to the file)."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OlaError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(values, list) or not values:
        raise OlaError(f"{file}: expected an array of prompts, found {values!r:.60}")
    for value in values:
        if not isinstance(value, str | dict):
            raise OlaError(f"{file}: a prompt is a text or a record, found {value!r:.60}")
    return [prompt_record(text=value) if isinstance(value, str) else value for value in values]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Outputs of our model for one prompt, with its batch of one row."""

    prompt: str
    batch: OlaBatch
    arrays: dict[str, HostArray]  # of `_compute_outputs`


def compare_outputs(
    directory: pathlib.Path, job: ImportJob, prompts: pathlib.Path
) -> tuple[list[LogitAgreement], list[FeatureAgreement]]:
    """Logits of each prompt, and features of the media of each; in float32, one model at a time in memory.

    PyTorch's parts are those of `transformers`: the decoder, the vision encoder's layers, Whisper.
    It has neither BEATs nor the projectors: its decoder gets JAX's projected features of media.
    """
    records = read_prompts(prompts)
    torch_parts.import_libraries()  # report missing ones before the long part
    config, params = checkpoint.load(directory, dtype="float32")
    model = Ola(architecture(config))  # in float32, with the attention that this machine has
    processor = Processor.from_pretrained(directory, preset="infer")
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch, method=_compute_outputs))
    outputs = []
    with jax.default_matmul_precision("highest"):
        for record in records:
            batch = processor([record], root=str(prompts.parent))
            arrays = jax.tree.map(np.asarray, forward(params, batch))
            outputs.append(Outputs(_name(record), batch, arrays))
    del params, model, forward
    gc.collect()  # PyTorch's copy is as large
    features = _compare_features(job, outputs)
    decoder = torch_parts.Decoder(job.origin.config or {}, job.tensors)
    agreements = []
    for ours in outputs:
        length = int((ours.batch.segments[0] > 0).sum())
        tokens, source = (np.asarray(row[0, :length]) for row in (ours.batch.tokens, ours.batch.source))
        theirs = decoder.logits(tokens, ours.arrays["inputs"][0, :length], source >= 0)
        agreements.append(_compare_logits(ours.prompt, ours.arrays["logits"][0, :length], theirs))
    return agreements, features


def _compute_outputs(model: Ola, batch: OlaBatch) -> dict[str, Array]:
    outputs = {"inputs": model.merge(batch), "logits": model(batch)}
    if batch.patches.shape[1]:
        image, position = batch.patch_image[0], batch.patch_position[0]
        outputs["vision"] = model.vision(normalize(batch.patches[0]), image, position)
    if batch.audio.shape[1] and model.config.whisper:
        outputs["mel"] = log_mel(jnp.asarray(batch.audio[0]), model.config.whisper.num_mels)
        outputs["whisper"] = model.whisper(outputs["mel"])
    return outputs


def _compare_features(job: ImportJob, outputs: list[Outputs]) -> list[FeatureAgreement]:
    """The features of each encoder that some prompt uses; PyTorch's encoders one at a time in memory."""
    return [*_compare_vision(job, outputs), *_compare_whisper(job, outputs)]


def _compare_vision(job: ImportJob, outputs: list[Outputs]) -> list[FeatureAgreement]:
    outputs = [ours for ours in outputs if "vision" in ours.arrays]
    if not outputs or job.config.vision is None:
        return []
    vision = torch_parts.Vision(job.config.vision, job.tensors)
    found = []
    for ours in outputs:
        pairs = []
        for window, image in enumerate(np.asarray(ours.batch.patch_image[0])):
            for number in range(1, image.max() + 1):
                chosen = image == number
                pixels = np.asarray(normalize(jnp.asarray(ours.batch.patches[0, window, chosen])))
                position = np.asarray(ours.batch.patch_position[0, window, chosen])
                pairs.append((ours.arrays["vision"][window, chosen], vision.features(pixels, position)))
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        found.append(FeatureAgreement(ours.prompt, "vision", len(b), *_errors(a, b)))
    return found


def _compare_whisper(job: ImportJob, outputs: list[Outputs]) -> list[FeatureAgreement]:
    outputs = [ours for ours in outputs if "whisper" in ours.arrays]
    if not outputs or job.config.whisper is None:
        return []
    whisper = torch_parts.Whisper(job.config.whisper, job.tensors, job.origin.whisper_dims)
    found = []
    for ours in outputs:
        theirs = whisper.features(ours.arrays["mel"])
        vectors = theirs.shape[0] * theirs.shape[1]
        found.append(
            FeatureAgreement(ours.prompt, "whisper", vectors, *_errors(ours.arrays["whisper"], theirs))
        )
    return found


def _compare_logits(
    name: str, ours: Float[HostArray, "L V"], theirs: Float[HostArray, "L V"]
) -> LogitAgreement:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    log_p, log_q = _log_softmax(b), _log_softmax(a)
    return LogitAgreement(
        name,
        len(b),
        *_errors(a, b),
        top1=float((a.argmax(-1) == b.argmax(-1)).mean()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
    )


def _errors(ours: Shaped[HostArray, "..."], theirs: Shaped[HostArray, "..."]) -> tuple[float, float]:
    """Largest difference, and norm of the difference over norm of PyTorch's."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.abs(a - b).max()), float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _log_softmax(x: Float[HostArray, "L V"]) -> Float[HostArray, "L V"]:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _name(record: dict[str, Any]) -> str:
    """The name of a prompt in the table: its id, or its first characters."""
    if record.get("id") is not None:
        return str(record["id"])
    return record["conversations"][0]["value"].replace("\n", " ")[:40]
