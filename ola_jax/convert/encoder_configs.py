"""The configs of the encoders in a released checkpoint, from shapes, `dims`, `cfg` and assumptions.

Each function adds its assumptions to `notes`, one line each for the user.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from ola_jax.config import BeatsConfig, OryxViTConfig, WhisperConfig
from ola_jax.convert.config_numbers import check_multiple, read_integer
from ola_jax.convert.names import BEATS, VISION, WHISPER
from ola_jax.errors import OlaError

Shapes = Mapping[str, tuple[int, ...]]

SIGLIP_HEADS, SIGLIP_WIDTH, SMALL_HEADS = 16, 512, 4
WHISPER_HEAD_WIDTH, SMALL_HEAD_WIDTH = 64, 8
BEATS_FLAGS = {  # of our BEATs; other values mean another network
    "activation_fn": "gelu",
    "conv_bias": False,
    "deep_norm": True,
    "gru_rel_pos": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
}


def assume_vision_heads(width: int) -> int:
    """The number of attention heads that is assumed for a vision encoder of this width."""
    return SIGLIP_HEADS if width >= SIGLIP_WIDTH else SMALL_HEADS


def read_vision_config(
    values: Mapping[str, Any], where: str, *, shapes: Shapes, heads: int | None, notes: list[str]
) -> OryxViTConfig:
    """The vision encoder's config, from the shapes; the number of heads is given, stored or assumed."""
    width, _, patch, _ = find_shape(shapes, f"{VISION}patch_embed.proj.weight", 4)
    cells = find_shape(shapes, f"{VISION}pos_embed", 3)[1]
    if math.isqrt(cells) ** 2 != cells:
        raise OlaError(f"{where}: {VISION}pos_embed has {cells} positions, expected a square grid")
    if heads is None and values.get("mm_vision_num_heads") is not None:
        heads = read_integer(values, "mm_vision_num_heads", where)
    if heads is None:
        heads = assume_vision_heads(width)
        notes.append(
            f"vision encoder: assumed {heads} attention heads for width {width} (the released format does "
            "not store the number); --vision-heads N sets it"
        )
    check_multiple(width, heads, "vision encoder's width and number of heads (--vision-heads)")
    return OryxViTConfig(
        hidden_size=width,
        num_layers=_count_layers(shapes, f"{VISION}blocks."),
        num_heads=heads,
        intermediate_size=find_shape(shapes, f"{VISION}blocks.0.mlp.fc1.weight", 2)[0],
        patch_size=patch,
        position_grid=math.isqrt(cells),
    )


def read_whisper_config(
    shapes: Shapes, *, dims: Mapping[str, Any] | None, heads: int | None, notes: list[str]
) -> WhisperConfig:
    """Whisper's config, from the `dims` of its file or from the shapes."""
    if dims is not None:
        number = functools.partial(read_integer, dims, where="dims of the Whisper file")
        config = WhisperConfig(
            num_mels=number("n_mels"),
            num_positions=number("n_audio_ctx"),
            hidden_size=number("n_audio_state"),
            num_layers=number("n_audio_layer"),
            num_heads=heads or number("n_audio_head"),
        )
    else:
        width, mels, _ = find_shape(shapes, f"{WHISPER}conv1.weight", 3)
        if heads is None:
            head_width = SMALL_HEAD_WIDTH if width % WHISPER_HEAD_WIDTH else WHISPER_HEAD_WIDTH
            heads = max(1, width // head_width)
            notes.append(
                f"Whisper: assumed {heads} attention heads for width {width} (no file with dims was given); "
                "--whisper-heads N sets it"
            )
        config = WhisperConfig(
            num_mels=mels,
            num_positions=find_shape(shapes, f"{WHISPER}positional_embedding", 2)[0],
            hidden_size=width,
            num_layers=_count_layers(shapes, f"{WHISPER}blocks."),
            num_heads=heads,
        )
    check_multiple(
        config.hidden_size, config.num_heads, "Whisper's width and number of heads (--whisper-heads)"
    )
    return config


def read_beats_config(shapes: Shapes, cfg: Mapping[str, Any], notes: list[str]) -> BeatsConfig:
    """BEATs' config, from the `cfg` of its file, and from the shapes where that lacks a number."""
    where = "cfg of the BEATs file"
    for key, only in BEATS_FLAGS.items():
        if cfg.get(key, only) != only:
            raise OlaError(f"{where}: {key} is {cfg[key]!r}; Ola's BEATs has {only!r}")
    number = lambda key, default: read_integer(cfg, key, where) if key in cfg else default
    embed, _, patch, _ = find_shape(shapes, f"{BEATS}patch_embedding.weight", 4)
    width, group_width, taps = find_shape(shapes, f"{BEATS}encoder.pos_conv.0.weight_v", 3)
    buckets, heads = _read_bias_shape(shapes)
    if "max_distance" not in cfg:
        notes.append(
            f"BEATs: assumed max_distance {BeatsConfig.max_distance}, as in every release (no file with cfg "
            "was given)"
        )
    config = BeatsConfig(
        embed_dim=number("embed_dim", embed),
        hidden_size=number("encoder_embed_dim", width),
        num_layers=number("encoder_layers", _count_layers(shapes, f"{BEATS}encoder.layers.")),
        num_heads=number("encoder_attention_heads", heads),
        intermediate_size=number(
            "encoder_ffn_embed_dim", find_shape(shapes, f"{BEATS}encoder.layers.0.fc1.weight", 2)[0]
        ),
        patch_size=number("input_patch_size", patch),
        num_buckets=number("num_buckets", buckets),
        max_distance=number("max_distance", BeatsConfig.max_distance),
        conv_positions=number("conv_pos", taps),
        conv_groups=number("conv_pos_groups", max(1, width // max(group_width, 1))),
        predictor_classes=shapes.get(f"{BEATS}predictor.weight", (0,))[0],
    )
    check_multiple(config.hidden_size, config.num_heads, "BEATs' width and number of heads")
    check_multiple(config.hidden_size, config.conv_groups, "BEATs' width and groups of its convolution")
    return config


def _read_bias_shape(shapes: Shapes) -> tuple[int, int]:
    """Buckets and heads of the relative attention bias, from any layer's copy."""
    pattern = re.compile(
        re.escape(BEATS) + r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight"
    )
    keys = sorted(key for key in shapes if pattern.fullmatch(key))
    buckets, heads = find_shape(
        shapes, keys[0] if keys else f"{BEATS}encoder.layers.0.self_attn.relative_attention_bias.weight", 2
    )
    return buckets, heads


def _count_layers(shapes: Shapes, prefix: str) -> int:
    """One more than the highest layer number; a gap shows later as a missing key."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def find_shape(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor. Raises OlaError if it is missing or has another number of axes."""
    if key not in shapes:
        raise OlaError(
            f"tensor {key} is missing, so the model's sizes are unknown; expected in the checkpoint"
        )
    if len(shapes[key]) != axes:
        raise OlaError(f"tensor {key} has shape {list(shapes[key])}, expected {axes} axes")
    return shapes[key]
