"""The speech pack, and the variations of its recordings that become the audio of the dataset."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.digits_omni.augmentation import add_noise, add_room, change_microphone, change_speaker
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
    synthesizer: str
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
    speech = soxr.resample(recording, SAMPLE_RATE, SAMPLE_RATE * np.exp(rng.uniform(-0.15, 0.15)))
    samples = _place(speech, rng) * 10 ** rng.uniform(-0.6, 0.2)  # -12 to +4 dB
    samples += rng.normal(0, np.abs(samples).max() * 10 ** rng.uniform(-3, -2), len(samples))  # -60 to -40 dB
    return np.clip(samples, -1, 1).astype(np.float32)


def augment(recording: Float[HostArray, "T"], rng: np.random.Generator) -> Float[HostArray, "S"]:
    """Changes a recording for training, so that speakers, rooms and microphones unlike it are understood.

    Returns at most LONGEST samples; silence of random length is added before and after.
    """
    first, last = (int(rng.uniform(0, 0.03) * SAMPLE_RATE) for _ in range(2))  # words are cut unevenly
    speech = recording[first : len(recording) - last] if rng.random() < 0.5 else recording
    if rng.random() < 0.9:
        speech = change_speaker(speech, rng)
    if rng.random() < 0.4:
        speech = add_room(speech, rng)
    if rng.random() < 0.8:
        speech = change_microphone(speech, rng)
    samples = add_noise(_place(speech, rng), rng)
    return (samples / np.abs(samples).max() * 10 ** rng.uniform(-1.3, 0)).astype(np.float32)


def _place(speech: Float[HostArray, "T"], rng: np.random.Generator) -> Float[HostArray, "S"]:
    """Adds silence within LONGEST samples: up to 0.8 s before, as in recordings, and 0.3 s after."""
    speech = speech[:LONGEST]
    before = int(rng.uniform(0, min(LONGEST - len(speech), 0.8 * SAMPLE_RATE)))
    after = int(rng.uniform(0, min(LONGEST - len(speech) - before, 0.3 * SAMPLE_RATE)))
    return np.pad(speech, (before, after))
