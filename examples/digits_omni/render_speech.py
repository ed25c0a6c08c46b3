"""Renders the speech pack: `python -m examples.digits_omni.render_speech DIRECTORY`.

The pack is kept in the repository, so the demo never runs this. It needs four synthesizers: espeak-ng, flite,
festival with festvox-kdlpc16k (Debian has them), and hibari-tts (`pip install 'ola_jax[speech]'`). espeak-ng
1.51, flite 2.2, festival 2.5 and hibari-tts 0.2 made the pack that is kept.
"""

import dataclasses
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

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
class EspeakVoice:
    """A speaker of espeak-ng: an accent of English, a variant (the timbre), pitch 0..99, words per minute."""

    accent: str
    variant: str
    pitch: int
    speed: int
    synthesizer: ClassVar[str] = "espeak-ng"

    @property
    def name(self) -> str:
        """The variant."""
        return self.variant

    def speak(self, text: str) -> tuple[Float[HostArray, "T"], int]:
        """The speech, and its rate in Hz."""
        name = f"{self.accent}+{self.variant}"
        options = ["-v", name, "-p", str(self.pitch), "-s", str(self.speed)]
        return soundfile.read(io.BytesIO(run("espeak-ng", *options, "--stdout", text)), dtype="float32")


@dataclasses.dataclass(frozen=True)
class FliteVoice:
    """A speaker of flite, all of them American or Scottish: a voice, and the stretch of its durations."""

    voice: str
    stretch: float
    accent: str
    synthesizer: ClassVar[str] = "flite"

    @property
    def name(self) -> str:
        """The voice and the stretch in percent."""
        return f"flite-{self.voice}-{round(100 * self.stretch)}"

    def speak(self, text: str) -> tuple[Float[HostArray, "T"], int]:
        """The speech, and its rate in Hz."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            stretch = f"duration_stretch={self.stretch}"
            run("flite", "-voice", self.voice, "--setf", stretch, "-t", text, "-o", file.name)
            return soundfile.read(file.name, dtype="float32")


@dataclasses.dataclass(frozen=True)
class HibariSpeaker:
    """The American speaker of hibari-tts, a neural network, at a speed."""

    speed: float
    accent: str = "en-us"
    synthesizer: ClassVar[str] = "hibari"

    @property
    def name(self) -> str:
        """The speed in percent."""
        return f"hibari-{round(100 * self.speed)}"

    def speak(self, text: str) -> tuple[Float[HostArray, "T"], int]:
        """The speech, and its rate in Hz."""
        import hibari

        punctuated = text if text.endswith("?") else f"{text}."  # a bare word is cut off
        return hibari.Hibari(voice="heart")(punctuated, speed=self.speed, seed=0), 24_000


@dataclasses.dataclass(frozen=True)
class FestivalVoice:
    """A speaker of festival, made of pieces of an American's speech, and the stretch of its durations."""

    stretch: float
    accent: str = "en-us"
    synthesizer: ClassVar[str] = "festival"

    @property
    def name(self) -> str:
        """The voice and the stretch in percent."""
        return f"festival-ked-{round(100 * self.stretch)}"

    def speak(self, text: str) -> tuple[Float[HostArray, "T"], int]:
        """The speech, and its rate in Hz."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            stretch = f"(Parameter.set 'Duration_Stretch {self.stretch})"
            settings = ["-eval", "(voice_ked_diphone)", "-eval", stretch]
            run("text2wave", *settings, "-o", file.name, text=text)
            return soundfile.read(file.name, dtype="float32")


Voice = EspeakVoice | FliteVoice | HibariSpeaker | FestivalVoice

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
FLITE_VOICES = {"awb": "en-gb-scotland", "rms": "en-us", "slt": "en-us", "kal16": "en-us"}
FLITE_STRETCHES = (0.75, 0.85, 0.95)
HIBARI_SPEEDS = (1.0, 1.15, 1.3)
OTHER_STRETCHES = (0.75, 0.85, 0.95)  # of festival's voice, which is in neither split


def espeak_voices(variants: tuple[str, ...]) -> list[Voice]:
    """One voice for each variant: accents in turn, pitch and speed spread evenly."""
    return [
        EspeakVoice(ACCENTS[i % len(ACCENTS)], variant, pitch=35 + 7 * i % 31, speed=150 + 11 * i % 41)
        for i, variant in enumerate(variants)
    ]


def run(*command: str, text: str = "") -> bytes:
    """The standard output of a program that reads `text`. Raises OlaError if it is not installed."""
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise OlaError(
            f"{command[0]} is not on the path; install it (Debian: apt-get install {command[0]})"
        ) from None


def speak(voice: Voice, text: str) -> Float[HostArray, "T"]:
    """The speech of `voice`, at 16 kHz in [-1, 1], without the silence around it."""
    samples, rate = voice.speak(text)
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
    flite = [
        FliteVoice(voice, stretch, accent)
        for stretch in FLITE_STRETCHES
        for voice, accent in FLITE_VOICES.items()
    ]
    for split, voices, questioners in (
        ("train", espeak_voices(TRAIN_VARIANTS), TRAIN_QUESTION_VOICES),
        ("train", flite, len(FLITE_VOICES)),
        ("train", [HibariSpeaker(speed) for speed in HIBARI_SPEEDS], 0),
        ("heldout", espeak_voices(HELDOUT_VARIANTS), HELDOUT_QUESTION_VOICES),
        ("other", [FestivalVoice(stretch) for stretch in OTHER_STRETCHES], 0),
    ):
        for i, voice in enumerate(voices):
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
                name = f"{split}/{voice.name}_{meaning}.flac"
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16", compression_level=1.0)
                entry = {"file": name, "text": text, "kind": kind, "meaning": meaning, "split": split}
                manifest.append(
                    entry | {"voice": voice.name, "accent": voice.accent, "synthesizer": voice.synthesizer}
                )
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
