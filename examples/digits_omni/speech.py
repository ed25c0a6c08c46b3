"""The speech pack, and the variations of its recordings that become the audio of the dataset."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ola_jax.config import SAMPLE_RATE
from ola_jax.typing import Float, HostArray

PACK = Path(__file__).parent / "speech"
LONGEST = 2 * SAMPLE_RATE  # samples of any audio of the dataset: one audio chunk of the demo's model


@dataclasses.dataclass(frozen=True)
class Recording:
    """One line of the pack's manifest, and its samples at 16 kHz in [-1, 1]."""

    file: str
    text: str
    kind: str  # digit, question
    meaning: str  # of a digit: "0".."9"; of a question: its topic
    split: str
    voice: str
    accent: str
    samples: Float[HostArray, "T"] = dataclasses.field(repr=False, compare=False)


def load_pack(directory: Path = PACK) -> list[Recording]:
    """Loads every recording of the speech pack, in the order of the manifest."""
    manifest = json.loads((directory / "manifest.json").read_text())
    return [
        Recording(**entry, samples=soundfile.read(directory / entry["file"], dtype="float32")[0])
        for entry in manifest
    ]


def vary(recording: Float[HostArray, "T"], rng: np.random.Generator) -> Float[HostArray, "S"]:
    """Varies a recording, as if it were spoken again: tempo and pitch, delay, loudness, and noise.

    Returns at most LONGEST samples; silence of random length is added before and after.
    """
    speech = soxr.resample(recording, SAMPLE_RATE, SAMPLE_RATE * np.exp(rng.uniform(-0.15, 0.15)))[:LONGEST]
    room = LONGEST - len(speech)
    before, after = (int(rng.uniform(0, min(room / 2, 0.3 * SAMPLE_RATE))) for _ in range(2))
    samples = np.pad(speech, (before, after)) * 10 ** rng.uniform(-0.6, 0.2)  # -12 to +4 dB
    samples += rng.normal(0, np.abs(samples).max() * 10 ** rng.uniform(-3, -2), len(samples))  # -60 to -40 dB
    return np.clip(samples, -1, 1).astype(np.float32)
