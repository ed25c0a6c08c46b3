"""Frozen configurations of the model and of its inputs, and their JSON form."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from ola_jax.errors import OlaError

SAMPLE_RATE = 16_000  # Hz, of every waveform in the package
HOP = 160  # samples between frames of a spectrogram (10 ms)
WINDOW = 400  # samples of such a frame (25 ms)

# How the features of a 2x2 block of patches become a token. Ola: local_global, attention pooling. The others
# are for comparison: their mean, a strided convolution, or none, so that every patch is a token.
Downsampling = Literal["local_global", "mean", "conv", "none"]

# Field metadata of settings that change how a model is computed, but not the model.
EXECUTION: dict[str, bool] = {"execution": True}

Remat = Literal["none", "full", "attention", "projections", "gate", "dots"]  # see models/remat.py


@dataclasses.dataclass(frozen=True)
class YarnConfig:
    """Rotary positions scaled for texts longer than those of pre-training (arXiv 2309.00071)."""

    factor: float = 4.0  # how many times longer
    original_max_position_embeddings: int = 32_768  # positions of pre-training
    attention_factor: float | None = None  # of cosine and sine; None: 0.1 ln(factor) + 1, or by mscale
    beta_fast: float = 32.0  # pairs that turn more often than this in pre-training keep their frequency
    beta_slow: float = 1.0  # those that turn less often are stretched by the factor
    mscale: float | None = None  # with mscale_all_dim: (0.1 m ln(factor) + 1), the one over the other
    mscale_all_dim: float | None = None
    truncate: bool = True  # round the two limits to integers


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
    """The decoder. Defaults: Qwen2.5-7B."""

    vocab_size: int = 152_064
    hidden_size: int = 3584
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    intermediate_size: int = 18_944
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    rope_scaling: YarnConfig | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True)
class OryxViTConfig:
    """The vision encoder. Defaults: OryxViT (the shape of SigLIP so400m, patch 16)."""

    hidden_size: int = 1152
    num_layers: int = 27
    num_heads: int = 16
    intermediate_size: int = 4304
    patch_size: int = 16  # pixels
    position_grid: int = 128  # side of the table of position embeddings, patches
    layer_norm_eps: float = 1e-6

    @property
    def patch_bytes(self) -> int:
        """P: bytes of one RGB patch."""
        return 3 * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """The speech encoder. Defaults: Whisper large-v3."""

    num_mels: int = 128
    num_positions: int = 1500  # encoder frames of a chunk; one frame is two mel frames (20 ms)
    hidden_size: int = 1280
    num_layers: int = 32
    num_heads: int = 20


@dataclasses.dataclass(frozen=True)
class BeatsConfig:
    """The audio (music, events) encoder. Defaults: BEATs iter3+ AS2M."""

    embed_dim: int = 512
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16  # mel bins, and mel frames
    num_mels: int = 128
    num_buckets: int = 320
    max_distance: int = 800  # patches
    conv_positions: int = 128  # taps of the convolutional position embedding
    conv_groups: int = 16
    predictor_classes: int = 527  # AudioSet head of the released file; Ola does not use it. 0: none


@dataclasses.dataclass(frozen=True)
class OlaConfig:
    """The complete model. A part that is None is absent (Ola-Image has no speech parts)."""

    llm: Qwen2Config = Qwen2Config()
    vision: OryxViTConfig | None = OryxViTConfig()
    whisper: WhisperConfig | None = WhisperConfig()
    beats: BeatsConfig | None = BeatsConfig()
    downsampling: Downsampling = "local_global"
    beats_chunk: int = 3000  # mel frames (10 ms) of an audio chunk without Whisper, which otherwise sets it
    speech_stack: int = 10  # encoder frames joined into one token
    speech_hidden_size: int = 2048  # of the speech projector
    # of matrix products, in every part (quirk T6); norms, softmax, BEATs: float32
    dtype: Literal["float32", "bfloat16"] = dataclasses.field(default="float32", metadata=EXECUTION)
    # what the backward pass recomputes in each layer
    remat: Remat = dataclasses.field(default="none", metadata=EXECUTION)
    # splash: the TPU kernel, auto's choice there
    attention: Literal["auto", "xla", "splash", "cudnn"] = dataclasses.field(
        default="auto", metadata=EXECUTION
    )
    # pallas: kernels for TPU and Hopper; auto: xla
    pooling: Literal["auto", "pallas", "xla"] = dataclasses.field(default="auto", metadata=EXECUTION)

    @classmethod
    def ola_7b(cls) -> "OlaConfig":
        """Ola-7B, as it was released."""
        return cls()

    @classmethod
    def ola_image_7b(cls) -> "OlaConfig":
        """Ola-Image and Ola-Video, as they were released: Ola-7B without the speech parts."""
        return cls(whisper=None, beats=None)

    @classmethod
    def tiny(cls) -> "OlaConfig":
        """All parts, as small as a mesh of 8 devices allows: for tests and first steps on a CPU."""
        return cls(
            llm=Qwen2Config(
                vocab_size=512,
                hidden_size=64,
                num_layers=2,
                num_heads=8,
                num_kv_heads=4,
                intermediate_size=128,
            ),
            vision=OryxViTConfig(
                hidden_size=32, num_layers=2, num_heads=4, intermediate_size=96, position_grid=8
            ),
            whisper=WhisperConfig(num_mels=80, num_positions=100, hidden_size=32, num_layers=2, num_heads=4),
            beats=BeatsConfig(
                embed_dim=32,
                hidden_size=32,
                num_layers=2,
                num_heads=4,
                intermediate_size=64,
                conv_positions=16,
                conv_groups=4,
                predictor_classes=0,
            ),
            speech_hidden_size=64,
        )

    @property
    def token_side(self) -> int:
        """Patches along either side of the square that becomes a token of an image."""
        return 1 if self.downsampling == "none" else 2

    @property
    def has_audio(self) -> bool:
        """True if there is an audio encoder."""
        return self.whisper is not None or self.beats is not None

    @property
    def chunk_samples(self) -> int:
        """T: samples (at 16 kHz) of one audio chunk."""
        if self.whisper:
            return self.whisper.num_positions * 2 * HOP
        return self.beats_chunk * HOP if self.beats else 0

    @property
    def beats_frames(self) -> int:
        """Patches that BEATs sees in one chunk: (fbank frames // 16) * (mel bins // 16)."""
        if not self.beats:
            return 0
        fbank_frames = 1 + (self.chunk_samples - WINDOW) // HOP
        return (fbank_frames // self.beats.patch_size) * (self.beats.num_mels // self.beats.patch_size)

    @property
    def chunk_tokens(self) -> int:
        """Tokens that one audio chunk becomes, its newline mark not counted."""
        whisper_frames = self.whisper.num_positions if self.whisper else 0
        return max(whisper_frames, self.beats_frames) // self.speech_stack


@dataclasses.dataclass(frozen=True)
class PixelLimits:
    """Sizes that images and frames are resized or padded to (in pixels).

    Source: the environment variables of the original's scripts/finetune_ola.sh and inference/infer.py.
    """

    low_res_side: int = 384  # the low-resolution view has about this side squared as its area
    high_res_max_side: int = 1536  # larger areas than this side squared are resized, others padded
    image_multiple: int = 32  # both views have sides that are multiples of this
    video_min_side: int = 288  # frames of a smaller area are enlarged
    video_max_side: int = 448  # frames of a larger area are reduced
    video_multiple: int = 32
    max_frames: int = 48
    repeat_frames: bool = False  # a video shorter than max_frames: repeat frames to reach it
    high_view_only: bool = False  # images without the low-resolution view, as two of the paper's evaluations
    smallest_image_side: int = 0  # images with a shorter side are enlarged until it is 64; 0: none


@dataclasses.dataclass(frozen=True)
class MediaLimits:
    """The largest media that are decoded; larger ones are refused before memory is allocated for them."""

    image_pixels: int = 178_956_970  # width times height; Pillow itself refuses larger ones
    frame_pixels: int = 8192 * 4320  # of one video frame
    video_frames: int = 1_000_000  # frames of a video that are decoded to choose from
    audio_seconds: float = 4 * 3600.0  # of one audio file; what fits into a sample is usually less
    audio_rates: tuple[int, int] = (1000, 768_000)  # lowest and highest sample rate, Hz
    patch_bytes: int = 2**30  # read for one reference into a patch file
    decode_seconds: float = (
        300.0  # of one record's images, video or audio in training; then decoding is stopped
    )
    exif_orientation: bool = False  # turn images as their EXIF data say; the original does not
    joined_audio: bool = False  # all parts of chained Ogg and joined MP3 files; the original: the first


@dataclasses.dataclass(frozen=True)
class ProcessorConfig:
    """Settings of the processor that turns records into samples; part of every checkpoint.

    Training and inference differ in sizes and number of frames (quirk V5).
    """

    train: PixelLimits = PixelLimits()
    infer: PixelLimits = PixelLimits(video_max_side=480, video_multiple=64, max_frames=64, repeat_frames=True)
    max_length: int = 16_384  # tokens of a merged sample; the rest is cut off
    system_prompt: str = "You are a helpful assistant."
    media: MediaLimits = MediaLimits()


def execution_settings(cls: type) -> dict[str, Any]:
    """The fields of a config that only change how it is computed, with their defaults."""
    return {f.name: f.default for f in dataclasses.fields(cls) if f.metadata.get("execution")}


def architecture(config: OlaConfig) -> OlaConfig:
    """The config with its execution settings at their defaults: equal for equal models."""
    return dataclasses.replace(config, **execution_settings(type(config)))


def differences(before: Any, after: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Paths of the fields in which two configs differ, such as "llm.rope_theta", with both values.

    Takes dataclasses, dicts (as `to_dict` or JSON give them), tuples and lists of them, and plain values; a
    field that one side lacks is None there.
    """
    before, after = (to_dict(x) if dataclasses.is_dataclass(x) else x for x in (before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        pairs = [(str(key), before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        pairs = [(str(i), x, y) for i, (x, y) in enumerate(zip(before, after, strict=True))]
    else:
        return {} if before == after else {path: (before, after)}
    found: dict[str, tuple[Any, Any]] = {}
    for name, x, y in pairs:
        found |= differences(x, y, f"{path}.{name}" if path else name)
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


Config = TypeVar("Config")


def from_dict(cls: type[Config], values: dict[str, Any], where: str = "config") -> Config:
    """The config that `to_dict` wrote. Raises OlaError on an unknown or missing name or a wrong type."""
    field_types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(field_types))
    if unknown:
        raise OlaError(f"{where}: unknown field {unknown[0]!r}; {cls.__name__} has {', '.join(field_types)}")
    return cls(
        **{name: _value(field_types[name], value, f"{where}.{name}") for name, value in values.items()}
    )


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None and type(None) in kind.__args__:
            return None
        kind = next(k for k in kind.__args__ if k is not type(None))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise OlaError(f"{where}: expected the fields of {kind.__name__}, found {value!r}")
        return from_dict(kind, value, where)
    if typing.get_origin(kind) is Literal:
        if value not in kind.__args__:
            raise OlaError(f"{where}: {value!r} is none of {', '.join(map(repr, kind.__args__))}")
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(kind.__args__):
            raise OlaError(f"{where}: expected {len(kind.__args__)} values, found {value!r}")
        return tuple(
            _value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kind.__args__, value, strict=True))
        )
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise OlaError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value
