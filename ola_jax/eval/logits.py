"""Outputs of a JAX checkpoint against PyTorch: logits, and the features of images and sound."""

import dataclasses
import gc
import json
import pathlib
from typing import Any

import jax
import numpy as np

from ola_jax import checkpoint
from ola_jax.batch import OlaBatch
from ola_jax.config import architecture
from ola_jax.convert.importer import Plan
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record
from ola_jax.errors import OlaError
from ola_jax.eval import torch_parts
from ola_jax.models.ola import Ola
from ola_jax.models.oryx_vit import normalize
from ola_jax.models.spectrogram import log_mel
from ola_jax.typing import Float, Shaped


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How the logits of one prompt agree, over all of its positions."""

    prompt: str
    positions: int
    max_abs: float  # of the difference of logits
    relative: float  # norm of the difference over norm of PyTorch's logits
    top1: float  # share of positions whose likeliest token is the same
    kl: float  # mean of KL(PyTorch || JAX), nats


@dataclasses.dataclass(frozen=True)
class Features:
    """How one encoder's features of a prompt's media agree."""

    prompt: str
    encoder: str
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


def compare(
    directory: pathlib.Path, plan: Plan, prompts: pathlib.Path
) -> tuple[list[Agreement], list[Features]]:
    """Logits of each prompt, features of each that has media; float32, one side after the other in memory.

    PyTorch's parts are those of `transformers`: the decoder, the vision encoder's layers, Whisper.
    BEATs and the projectors it does not have: the decoder gets JAX's projected features of media.
    """
    records = read_prompts(prompts)
    torch_parts.libraries()  # say what lacks before the long part
    config, params = checkpoint.load(directory, dtype="float32")
    model = Ola(architecture(config))  # in float32, by whatever attention this machine has
    processor = Processor.from_pretrained(directory, preset="infer")
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch, method=_outputs))
    sides = []
    with jax.default_matmul_precision("highest"):
        for record in records:
            batch = processor([record], root=str(prompts.parent))
            sides.append((_name(record), batch, jax.tree.map(np.asarray, forward(params, batch))))
    del params, model, forward
    gc.collect()  # PyTorch's copy is as large
    features = _features(plan, sides)
    decoder = torch_parts.Decoder(plan.released["config"], plan.tensors)
    agreements = []
    for name, batch, ours in sides:
        length = int((batch.segments[0] > 0).sum())
        is_feature = batch.source[0, :length] >= 0
        theirs = decoder.logits(batch.tokens[0, :length], ours["inputs"][0, :length], is_feature)
        agreements.append(_agreement(name, ours["logits"][0, :length], theirs))
    return agreements, features


def _outputs(model: Ola, batch: OlaBatch) -> dict[str, Any]:
    outputs = {"inputs": model.merge(batch), "logits": model(batch)}
    if batch.patches.shape[1]:
        image, place = batch.patch_image[0], batch.patch_position[0]
        outputs["vision"] = model.vision(normalize(batch.patches[0]), image, place)
    if batch.audio.shape[1]:
        outputs["mel"] = log_mel(batch.audio[0], model.config.whisper.num_mels)
        outputs["whisper"] = model.whisper(outputs["mel"])
    return outputs


def _features(plan: Plan, sides: list[tuple[str, OlaBatch, dict[str, np.ndarray]]]) -> list[Features]:
    """The encoders that some prompt used, each built once."""
    found = []
    used = lambda encoder: [side for side in sides if encoder in side[2]]
    vision = torch_parts.Vision(plan.config.vision, plan.tensors) if used("vision") else None
    for name, batch, ours in used("vision"):
        pairs = []
        for window, image in enumerate(batch.patch_image[0]):
            for number in range(1, image.max() + 1):
                at = image == number
                pixels = np.asarray(normalize(batch.patches[0, window, at]))
                theirs = vision.features(pixels, batch.patch_position[0, window, at])
                pairs.append((ours["vision"][window, at], theirs))
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        found.append(Features(name, "vision", len(b), *_errors(a, b)))
    del vision
    dims = plan.released["whisper_dims"]
    whisper = torch_parts.Whisper(plan.config.whisper, plan.tensors, dims) if used("whisper") else None
    for name, _, ours in used("whisper"):
        theirs = whisper.features(ours["mel"])
        vectors = theirs.shape[0] * theirs.shape[1]
        found.append(Features(name, "whisper", vectors, *_errors(ours["whisper"], theirs)))
    return found


def _agreement(name: str, ours: Float[np.ndarray, "L V"], theirs: Float[np.ndarray, "L V"]) -> Agreement:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    log_p, log_q = _log_softmax(b), _log_softmax(a)
    return Agreement(
        name,
        len(b),
        *_errors(a, b),
        top1=float((a.argmax(-1) == b.argmax(-1)).mean()),
        kl=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
    )


def _errors(ours: Shaped[np.ndarray, "..."], theirs: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    """Largest difference, and norm of the difference over norm of PyTorch's."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.abs(a - b).max()), float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _log_softmax(x: Float[np.ndarray, "L V"]) -> Float[np.ndarray, "L V"]:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _name(record: dict[str, Any]) -> str:
    """What the table calls a prompt: its id, or how it begins."""
    if record.get("id") is not None:
        return str(record["id"])
    return record["conversations"][0]["value"].replace("\n", " ")[:40]
