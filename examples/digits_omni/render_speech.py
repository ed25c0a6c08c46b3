"""Renders the speech pack with espeak-ng: `python -m examples.digits_omni.render_speech DIRECTORY`.

The pack is kept in the repository, so the demo never runs this. It needs `espeak-ng` on the path
(Debian: `apt-get install espeak-ng`); espeak-ng 1.51 made the pack that is kept.
"""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.digits_omni.questions import SPOKEN, WORDS
from ola_jax.config import SAMPLE_RATE
from ola_jax.errors import OlaError
from ola_jax.typing import Float, HostArray

PEAK = 0.5  # of every recording, full scale being 1
STEP = 16 / 32768  # samples are rounded to 12 bits: noise 66 dB below the peak, a third smaller files
LONGEST = {"digit": 0.8, "question": 1.9}  # seconds: an audio chunk of the demo has 2 s


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker: an accent of English, a variant (the timbre), pitch 0..99, and words per minute."""

    accent: str
    variant: str
    pitch: int
    speed: int


# Not en-gb: espeak-ng 1.51 ignores the variant in en-gb+VARIANT, and renders plain en.
ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-scotland", "en-gb-x-gbclan", "en-029")
# Variants that are near copies of each other (such as klatt and its relatives) are never in both splits.
TRAIN_VARIANTS = (
    *("Alex", "belinda", "david", "Alicia", "m7", "aunty", "Mario", "f1", "pedro", "Andrea"),
    *("grandpa", "f5", "Michael", "anika", "paul", "steph", "john", "grandma", "Jacky", "f3"),
    *("adam", "Annie", "Denis", "f2", "boris", "m1", "Henrique", "Gene", "iven", "kaukovalta"),
    *("Andy", "Lee", "antonio", "ed", "m3", "m4", "m5", "max", "miguel", "shelby"),
)
HELDOUT_VARIANTS = ("linda", "Mike", "f4", "robert", "quincy", "travis", "m2", "norbert", "sandro", "victor")
TRAIN_QUESTION_VOICES, HELDOUT_QUESTION_VOICES = 18, 6  # the first of each; questions are long


def voices(variants: tuple[str, ...]) -> list[Voice]:
    """One voice for each variant: accents in turn, pitch and speed spread evenly."""
    return [
        Voice(ACCENTS[i % len(ACCENTS)], variant, pitch=35 + 7 * i % 31, speed=150 + 11 * i % 41)
        for i, variant in enumerate(variants)
    ]


def speak(voice: Voice, text: str) -> Float[HostArray, "T"]:
    """The speech of `voice`, at 16 kHz in [-1, 1], without the silence around it."""
    name = f"{voice.accent}+{voice.variant}"
    command = ["espeak-ng", "-v", name, "-p", str(voice.pitch), "-s", str(voice.speed), "--stdout", text]
    try:
        wav = subprocess.run(command, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise OlaError(
            "espeak-ng is not on the path; install it (Debian: apt-get install espeak-ng)"
        ) from None
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    samples = trim(soxr.resample(samples, rate, SAMPLE_RATE))
    return np.round(samples * (PEAK / np.abs(samples).max()) / STEP) * np.float32(STEP)


def trim(samples: Float[HostArray, "T"]) -> Float[HostArray, "T"]:
    """Removes the ends that are 40 dB below the loudest 10 ms, except for 10 ms on either side."""
    window = SAMPLE_RATE // 100
    loudness = np.convolve(np.abs(samples), np.full(window, 1 / window, np.float32), "same")
    loud = np.flatnonzero(loudness > 0.01 * loudness.max())
    return samples[max(0, loud[0] - window) : loud[-1] + window]


def render(directory: Path) -> list[dict[str, str]]:
    """Writes every recording and `manifest.json` into `directory`; returns the manifest."""
    manifest: list[dict[str, str]] = []
    rendered: dict[bytes, Voice] = {}
    for split, variants, questioners in (
        ("train", TRAIN_VARIANTS, TRAIN_QUESTION_VOICES),
        ("heldout", HELDOUT_VARIANTS, HELDOUT_QUESTION_VOICES),
    ):
        for i, voice in enumerate(voices(variants)):
            lines = [("digit", str(digit), word) for digit, word in enumerate(WORDS)]
            if i < questioners:
                lines += [("question", name, texts[i % len(texts)]) for name, texts in SPOKEN.items()]
            for kind, meaning, text in lines:
                samples = speak(voice, text)
                seconds = len(samples) / SAMPLE_RATE
                if seconds > LONGEST[kind]:
                    raise OlaError(
                        f"{voice}: {text!r} takes {seconds:.2f} s, above {LONGEST[kind]} s; raise its speed"
                    )
                twin = rendered.setdefault(samples.tobytes(), voice)
                if twin != voice:  # espeak-ng ignores a name that it does not know
                    raise OlaError(f"{text!r} is the same from {voice} and {twin}; choose another variant")
                name = f"{split}/{voice.variant}_{meaning}.flac"
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16", compression_level=1.0)
                entry = {"file": name, "text": text, "kind": kind, "meaning": meaning, "split": split}
                manifest.append(entry | {"voice": voice.variant, "accent": voice.accent})
    items = ",\n".join(json.dumps(entry) for entry in manifest)
    (directory / "manifest.json").write_text(f"[\n{items}\n]\n")
    return manifest


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.digits_omni.render_speech DIRECTORY")
    try:
        print(f"{len(render(Path(sys.argv[1])))} recordings")
    except OlaError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
