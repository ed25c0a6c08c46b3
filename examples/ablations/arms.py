"""The arms: Ola's recipe, and the same with one choice replaced; and the questions that they answer."""

import dataclasses
from typing import Literal

from ola_jax.config import Downsampling

Mixing = Literal["progressive", "direct", "balanced"]
AudioEncoders = Literal["both", "whisper", "beats"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str  # of its files
    title: str
    # progressive: images, then video, then audio; direct: all from the first step, in the same amounts;
    # balanced: all from the first step, as much of each modality
    mixing: Mixing = "progressive"
    downsampling: Downsampling = "local_global"
    video_audio: bool = True  # train on questions about a video and its sound track
    audio_encoders: AudioEncoders = "both"


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Arms that are compared; the first is Ola's recipe, which all ablations share."""

    name: str
    title: str
    arms: tuple[str, ...]


ARMS = (
    Arm("ola", "Ola's recipe"),
    Arm("direct", "direct mixing", mixing="direct"),
    Arm("balanced", "balanced sampling", mixing="balanced"),
    Arm("mean", "mean pooling", downsampling="mean"),
    Arm("conv", "strided convolution", downsampling="conv"),
    Arm("none", "no downsampling", downsampling="none"),
    Arm("no_video_audio", "without video-audio data", video_audio=False),
    Arm("whisper", "Whisper only", audio_encoders="whisper"),
    Arm("beats", "BEATs only", audio_encoders="beats"),
)
ABLATIONS = (
    Ablation("alignment", "Progressive alignment", ("ola", "direct", "balanced")),
    Ablation("pooling", "Local-global attention pooling", ("ola", "mean", "conv", "none")),
    Ablation("video_audio", "Cross-modal video-audio data", ("ola", "no_video_audio")),
    Ablation("audio_encoders", "Two audio encoders", ("ola", "whisper", "beats")),
)


def find_arm(name: str) -> Arm:
    """The arm of this name."""
    return next(arm for arm in ARMS if arm.name == name)
