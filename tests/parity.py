"""The goldens' cases as records, run through processor and model."""

import functools
import pathlib

import numpy as np

from ola_jax.config import OlaConfig
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record
from ola_jax.data.tokenizer import load_tokenizer
from tests import golden
from tests.released import released

TRAIN = [c["id"] for c in golden.index()["cases"] if c["id"].startswith("train_")]
# Literal runs of the original's script on a video show the model one frame only: fixed here (quirk I1).
INFER = [
    c["id"] for c in golden.index()["cases"] if c["id"].startswith("infer_") and "literal" not in c["id"]
]


@functools.cache
def processor(preset: str) -> Processor:
    r = released()
    return Processor(r.config, r.processor_config, load_tokenizer(golden.VISIBLE / "hf"), preset)


def config() -> OlaConfig:
    return released().config


def records(name: str) -> list[dict]:
    """A case's records; media paths are relative to tests/goldens/visible."""
    case = golden.case(name)
    return case["samples"] if "samples" in case else [prompt(case)]


def prompt(case: dict) -> dict:
    """An inference case as the record that its command line stands for."""
    value = case["prompt"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    files = case.get("files") or [f for key, f in case.get("cli", {}).items() if key != "text"]
    of_kind = lambda *ends: [f for f in files if pathlib.Path(f).suffix in ends]
    images, videos, sounds = of_kind(".png", ".jpg"), of_kind(".mp4"), of_kind(".wav")
    record = prompt_record(
        images=images,
        video=videos[0] if videos else None,
        audio=sounds[0] if sounds else None,
        sound=bool(sounds),
    )
    record["conversations"][0]["value"] = value
    return record


def kept(z: dict[str, np.ndarray], name: str, actual: np.ndarray) -> np.ndarray:
    """The positions of axis 1 that the golden kept of an array."""
    index = z.get(f"{name}__idx")
    return actual if index is None else actual[:, index]
