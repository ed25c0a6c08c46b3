"""One table of rules for single settings of a run, and checks of settings that depend on each other."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from ola_jax.batch import Budget
from ola_jax.config import (
    BeatsConfig,
    MediaLimits,
    OlaConfig,
    OryxViTConfig,
    PixelLimits,
    ProcessorConfig,
    Qwen2Config,
    WhisperConfig,
    YarnConfig,
)
from ola_jax.data.sources import Source
from ola_jax.sharding import MeshConfig
from ola_jax.training.lora import LoraConfig
from ola_jax.training.optimizer import OptimizerConfig, PartRate


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on one value, and its description after "expected" in messages."""

    holds: Callable[[Any], bool]
    expected: str


def at_least(low: float | int, high: float | int = math.inf) -> Rule:
    """A rule: from `low` to `high`, both included."""
    words = f"{low} or more" if high == math.inf else f"{low} to {high}"
    return Rule(lambda value: low <= value <= high, words)


def above(low: float | int) -> Rule:
    """A rule: more than `low`."""
    return Rule(lambda value: value > low, f"more than {low}")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return bool(pattern)


POSITIVE = above(0)
COUNT = at_least(1)
NATURAL = at_least(0)
SHARE = at_least(0, 1)
DECAY = Rule(lambda value: 0 <= value < 1, "0 or more, and less than 1")
GIVEN = Rule(lambda text: bool(text.strip()), "a text that is not empty")
ANY = Rule(lambda value: True, "")
REGEX = Rule(_compiles, "a regular expression")
AXIS = Rule(lambda value: value >= 1 or value == -1, "1 or more, or -1 (all devices that remain)")
MULTIPLE_OF_4 = Rule(lambda value: value >= 0 and value % 4 == 0, "0 or a multiple of 4")

Rules = Mapping[type, Mapping[str, Rule]]

# Numbers and texts that are not listed here may have any (finite) value of their type.
RULES: dict[type, dict[str, Rule]] = {
    Qwen2Config: dict.fromkeys(
        ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size"), COUNT
    )
    | dict.fromkeys(("rope_theta", "rms_norm_eps"), POSITIVE),
    YarnConfig: {"factor": at_least(1), "original_max_position_embeddings": COUNT}
    | dict.fromkeys(("attention_factor", "beta_fast", "beta_slow"), POSITIVE)
    | dict.fromkeys(("mscale", "mscale_all_dim"), NATURAL),
    OryxViTConfig: dict.fromkeys(
        ("hidden_size", "num_layers", "num_heads", "intermediate_size", "patch_size", "position_grid"), COUNT
    )
    | {"layer_norm_eps": POSITIVE},
    WhisperConfig: dict.fromkeys(
        ("num_mels", "num_positions", "hidden_size", "num_layers", "num_heads"), COUNT
    ),
    BeatsConfig: dict.fromkeys(
        (
            "embed_dim",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "patch_size",
            "num_mels",
        ),
        COUNT,
    )
    | {
        "num_buckets": at_least(4),  # half of them for each direction, half of these for single distances
        "max_distance": COUNT,
        "conv_positions": COUNT,
        "conv_groups": COUNT,
        "predictor_classes": NATURAL,
    },
    OlaConfig: {"beats_chunk": COUNT, "speech_stack": COUNT, "speech_hidden_size": COUNT},
    PixelLimits: dict.fromkeys(
        (
            "low_res_side",
            "high_res_max_side",
            "image_multiple",
            "video_min_side",
            "video_max_side",
            "video_multiple",
            "max_frames",
        ),
        COUNT,
    )
    | {"smallest_image_side": NATURAL},
    MediaLimits: dict.fromkeys(
        (
            "image_pixels",
            "frame_pixels",
            "video_frames",
            "audio_seconds",
            "audio_rates",
            "patch_bytes",
            "decode_seconds",
        ),
        POSITIVE,
    ),
    ProcessorConfig: {"max_length": COUNT, "system_prompt": ANY},
    Budget: {"tokens": COUNT, "windows": NATURAL, "window_patches": MULTIPLE_OF_4, "audio_chunks": NATURAL},
    MeshConfig: dict.fromkeys(("data", "fsdp", "tensor", "context"), AXIS),
    Source: {"records": GIVEN, "split": GIVEN, "root": ANY, "weight": POSITIVE},
    PartRate: {"pattern": REGEX, "learning_rate": NATURAL},
    OptimizerConfig: {
        "learning_rate": NATURAL,
        "warmup_ratio": SHARE,
        "floor_ratio": SHARE,
        "b1": DECAY,
        "b2": DECAY,
        "eps": POSITIVE,
        "weight_decay": NATURAL,
        "clip_norm": POSITIVE,
        "muon_momentum": DECAY,
    },
    LoraConfig: {"rank": NATURAL, "alpha": POSITIVE, "pattern": REGEX},
}


def find_broken(config: Any, rules: Rules, path: str = "") -> Iterator[str]:
    """A message for each value within a config that has another type, is not finite, or breaks its rule."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        rule = rules.get(type(config), {}).get(field.name, ANY)
        where = f"{path}.{field.name}" if path else field.name
        yield from _find_broken_value(getattr(config, field.name), hints[field.name], rule, rules, where)


def _find_broken_value(value: Any, kind: Any, rule: Rule, rules: Rules, path: str) -> Iterator[str]:
    if isinstance(kind, types.UnionType):  # all of them are "KIND | None"
        if value is None:
            return
        kind = next(k for k in kind.__args__ if k is not type(None))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, kind):
            yield from find_broken(value, rules, path)
        else:
            yield f"{path}: {short(value)}, expected a {kind.__name__}"
    elif typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, tuple) or (kinds[-1] is not ... and len(value) != len(kinds)):
            yield f"{path}: {short(value)}, expected a tuple" + (
                "" if kinds[-1] is ... else f" of {len(kinds)}"
            )
            return
        for number, each in enumerate(value):
            yield from _find_broken_value(each, kinds[0], rule, rules, f"{path}.{number}")
    elif typing.get_origin(kind) is Literal:
        if value not in kind.__args__:
            yield f"{path}: {short(value)}, expected one of {', '.join(map(repr, kind.__args__))}"
    elif not _is(value, kind):
        yield f"{path}: {short(value)}, expected {_NAMES[kind]}"
    elif not rule.holds(value):
        yield f"{path}: {short(value)}, expected {rule.expected}"


_NAMES = {int: "a whole number", float: "a finite number", str: "a text", bool: "True or False"}


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def short(value: object, length: int = 40) -> str:
    """The `repr` of a value, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def find_model_misfits(config: OlaConfig) -> Iterator[str]:
    """Messages about sizes of a model that do not fit each other. Each value alone is valid."""

    def divides(part: str, size: str, by: str) -> Iterator[str]:
        total, divisor = (getattr(getattr(config, part), name) for name in (size, by))
        if total % divisor:
            yield f"model.{part}.{size}: {total}, expected a multiple of {by} ({divisor})"

    llm = config.llm
    yield from divides("llm", "hidden_size", "num_heads")
    yield from divides("llm", "num_heads", "num_kv_heads")
    if llm.hidden_size % llm.num_heads == 0 and llm.head_dim % 2:
        yield f"model.llm: heads are {llm.head_dim} wide (hidden_size / num_heads), expected an even number"
    if config.vision:
        yield from divides("vision", "hidden_size", "num_heads")
        if config.pooling == "pallas" and config.downsampling != "local_global":
            yield f"model.pooling: 'pallas', expected 'auto': there is no kernel for {config.downsampling!r}"
    if config.whisper:
        yield from divides("whisper", "hidden_size", "num_heads")
        if config.whisper.hidden_size % 2:
            yield f"model.whisper.hidden_size: {config.whisper.hidden_size}, expected an even number"
    if config.has_audio and config.chunk_tokens < 1:
        yield f"model.speech_stack: {config.speech_stack}, expected at most the frames of a chunk"
    if config.beats:
        yield from divides("beats", "hidden_size", "num_heads")
        yield from divides("beats", "hidden_size", "conv_groups")
        yield from divides("beats", "num_mels", "patch_size")
        if config.beats.max_distance <= config.beats.num_buckets // 4:
            yield (
                f"model.beats.max_distance: {config.beats.max_distance}, expected more than num_buckets / 4 "
                f"({config.beats.num_buckets // 4})"
            )


def find_processor_misfits(config: ProcessorConfig, model: OlaConfig) -> Iterator[str]:
    """Messages about settings of a processor that do not fit each other or the model."""
    for name, limits in (("train", config.train), ("infer", config.infer)):
        if limits.video_min_side > limits.video_max_side:
            yield (
                f"processor.{name}.video_min_side: {limits.video_min_side}, expected at most video_max_side "
                f"({limits.video_max_side})"
            )
        if model.vision:
            block = 2 * model.vision.patch_size
            for multiple in ("image_multiple", "video_multiple"):
                if (size := getattr(limits, multiple)) % block:
                    yield f"processor.{name}.{multiple}: {size}, expected a multiple of {block} (two patches)"
    low, high = config.media.audio_rates
    if low > high:
        yield f"processor.media.audio_rates: {low} to {high}, expected the lower one first"
