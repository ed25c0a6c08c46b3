"""The OlaConfig of a released checkpoint.

The decoder is described by config.json, Whisper by the `dims` of its file, BEATs by the `cfg` of
its file; all else follows from the shapes. Some layouts store three numbers nowhere: the
vision encoder's heads, and with the speech encoder inside, Whisper's heads and
BEATs' max_distance. They are assumed, and each assumption is returned as a note for the user.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, ProcessorConfig, Qwen2Config, WhisperConfig
from ola_jax.convert import released_fields, rope
from ola_jax.convert.names import BEATS, VISION, WHISPER
from ola_jax.errors import OlaError

Shapes = Mapping[str, tuple[int, ...]]

SIGLIP_HEADS, SIGLIP_WIDTH, SMALL_HEADS = 16, 512, 4
NO_LIMIT = 2**31 - 1  # tokens
LARGEST = 2**24  # of any size; products of sizes stay within 64 bits
MOST_LAYERS = 10_000
WHISPER_HEAD_WIDTH, SMALL_HEAD_WIDTH = 64, 8
BEATS_FLAGS = {  # of our BEATs; with other values it is another network
    "activation_fn": "gelu",
    "conv_bias": False,
    "deep_norm": True,
    "gru_rel_pos": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
}


def has_vision(values: Mapping[str, Any]) -> bool:
    """True if config.json names a vision encoder."""
    return values.get("mm_vision_tower") is not None


def has_speech(values: Mapping[str, Any], where: str) -> bool:
    """True if config.json names a speech encoder. OlaError if it is not the dual one (Whisper and BEATs)."""
    if values.get("speech_encoder") is None:
        return False
    kind = values.get("speech_encoder_type")
    if not isinstance(kind, str) or "dual" not in kind.lower():
        raise OlaError(f"{where}: speech_encoder_type is {kind!r}; ola_jax knows 'dual' (Whisper with BEATs)")
    return True


def assume_vision_heads(width: int) -> int:
    """The number of attention heads that is assumed for a vision encoder of this width."""
    return SIGLIP_HEADS if width >= SIGLIP_WIDTH else SMALL_HEADS


def read_processor_config(values: Mapping[str, Any], where: str) -> ProcessorConfig:
    """The processor's config: the original truncates samples at `tokenizer_model_max_length` (quirk C8)."""
    length = values.get("tokenizer_model_max_length")
    if length is None:
        return ProcessorConfig()
    if isinstance(length, int | float) and length > NO_LIMIT:  # transformers writes 1e30 for "no limit"
        length = NO_LIMIT
    return ProcessorConfig(
        max_length=_integer({"tokenizer_model_max_length": length}, "tokenizer_model_max_length", where)
    )


def read_ola_config(
    values: Mapping[str, Any],
    where: str,
    *,
    shapes: Shapes,
    dims: Mapping[str, Any] | None = None,
    cfg: Mapping[str, Any] | None = None,
    vision_heads: int | None = None,
    whisper_heads: int | None = None,
) -> tuple[OlaConfig, list[str]]:
    """The model's config, and notes of the assumptions.

    `values` is config.json, named `where` in errors; `shapes` are those of all tensors by their
    released keys; `dims` and `cfg` come from the files of Whisper and BEATs, None without them.
    """
    vision, speech = has_vision(values), has_speech(values, where)
    notes = released_fields.check_fields(values, where, vision=vision, speech=speech)
    config = OlaConfig(vision=None, whisper=None, beats=None)
    if vision:
        encoder = _read_vision(values, where, shapes=shapes, heads=vision_heads, notes=notes)
        config = dataclasses.replace(config, vision=encoder)
    if speech:
        inner = "model.speech_projector.linear1.weight"  # absent where it is about to be initialized
        config = dataclasses.replace(
            config,
            whisper=_read_whisper(shapes, dims=dims, heads=whisper_heads, notes=notes),
            beats=_read_beats(shapes, cfg or {}, notes),
            speech_stack=_integer(values, "speech_encoder_ds_rate", where),
            speech_hidden_size=_shape(shapes, inner, 2)[0] if inner in shapes else config.speech_hidden_size,
        )
    llm = _read_llm(values, where)
    if llm.rope_scaling:
        notes.append(
            f"rotary positions scaled by YaRN, factor {llm.rope_scaling.factor:g}, as config.json says; the "
            "original's code ignores rope_scaling"
        )
    return dataclasses.replace(config, llm=llm), notes


def _read_llm(values: Mapping[str, Any], where: str) -> Qwen2Config:
    theta, scaling = rope.read_rope(values, where)
    config = Qwen2Config(
        vocab_size=_integer(values, "vocab_size", where),
        hidden_size=_integer(values, "hidden_size", where),
        num_layers=_integer(values, "num_hidden_layers", where),
        num_heads=_integer(values, "num_attention_heads", where),
        num_kv_heads=_integer(values, "num_key_value_heads", where),
        intermediate_size=_integer(values, "intermediate_size", where),
        rope_theta=theta,
        rms_norm_eps=_number(values, "rms_norm_eps", where),
        rope_scaling=scaling,
    )
    _check_heads(config.hidden_size, config.num_heads, f"{where}: hidden_size and num_attention_heads")
    if config.head_dim % 2:
        raise OlaError(f"{where}: heads are {config.head_dim} wide; rotary positions need an even width")
    _check_heads(
        config.num_heads, config.num_kv_heads, f"{where}: num_attention_heads and num_key_value_heads"
    )
    return config


def _read_vision(
    values: Mapping[str, Any], where: str, *, shapes: Shapes, heads: int | None, notes: list[str]
) -> OryxViTConfig:
    width, _, patch, _ = _shape(shapes, f"{VISION}patch_embed.proj.weight", 4)
    cells = _shape(shapes, f"{VISION}pos_embed", 3)[1]
    if math.isqrt(cells) ** 2 != cells:
        raise OlaError(f"{where}: {VISION}pos_embed has {cells} positions, expected a square grid")
    if heads is None and values.get("mm_vision_num_heads") is not None:
        heads = _integer(values, "mm_vision_num_heads", where)
    if heads is None:
        heads = assume_vision_heads(width)
        notes.append(
            f"vision encoder: assumed {heads} attention heads for width {width} (the released format does "
            "not store the number); --vision-heads N sets it"
        )
    _check_heads(width, heads, "vision encoder's width and number of heads (--vision-heads)")
    return OryxViTConfig(
        hidden_size=width,
        num_layers=_count_layers(shapes, f"{VISION}blocks."),
        num_heads=heads,
        intermediate_size=_shape(shapes, f"{VISION}blocks.0.mlp.fc1.weight", 2)[0],
        patch_size=patch,
        position_grid=math.isqrt(cells),
    )


def _read_whisper(
    shapes: Shapes, *, dims: Mapping[str, Any] | None, heads: int | None, notes: list[str]
) -> WhisperConfig:
    if dims is not None:
        number = functools.partial(_integer, dims, where="dims of the Whisper file")
        config = WhisperConfig(
            num_mels=number("n_mels"),
            num_positions=number("n_audio_ctx"),
            hidden_size=number("n_audio_state"),
            num_layers=number("n_audio_layer"),
            num_heads=heads or number("n_audio_head"),
        )
    else:
        width, mels, _ = _shape(shapes, f"{WHISPER}conv1.weight", 3)
        if heads is None:
            head_width = SMALL_HEAD_WIDTH if width % WHISPER_HEAD_WIDTH else WHISPER_HEAD_WIDTH
            heads = max(1, width // head_width)
            notes.append(
                f"Whisper: assumed {heads} attention heads for width {width} (no file with dims was given); "
                "--whisper-heads N sets it"
            )
        config = WhisperConfig(
            num_mels=mels,
            num_positions=_shape(shapes, f"{WHISPER}positional_embedding", 2)[0],
            hidden_size=width,
            num_layers=_count_layers(shapes, f"{WHISPER}blocks."),
            num_heads=heads,
        )
    _check_heads(
        config.hidden_size, config.num_heads, "Whisper's width and number of heads (--whisper-heads)"
    )
    return config


def _read_beats(shapes: Shapes, cfg: Mapping[str, Any], notes: list[str]) -> BeatsConfig:
    where = "cfg of the BEATs file"
    for key, only in BEATS_FLAGS.items():
        if cfg.get(key, only) != only:
            raise OlaError(f"{where}: {key} is {cfg[key]!r}; Ola's BEATs has {only!r}")
    number = lambda key, default: _integer(cfg, key, where) if key in cfg else default
    embed, _, patch, _ = _shape(shapes, f"{BEATS}patch_embedding.weight", 4)
    width, group_width, taps = _shape(shapes, f"{BEATS}encoder.pos_conv.0.weight_v", 3)
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
            "encoder_ffn_embed_dim", _shape(shapes, f"{BEATS}encoder.layers.0.fc1.weight", 2)[0]
        ),
        patch_size=number("input_patch_size", patch),
        num_buckets=number("num_buckets", buckets),
        max_distance=number("max_distance", BeatsConfig.max_distance),
        conv_positions=number("conv_pos", taps),
        conv_groups=number("conv_pos_groups", max(1, width // max(group_width, 1))),
        predictor_classes=shapes.get(f"{BEATS}predictor.weight", (0,))[0],
    )
    _check_heads(config.hidden_size, config.num_heads, "BEATs' width and number of heads")
    _check_heads(config.hidden_size, config.conv_groups, "BEATs' width and groups of its convolution")
    return config


def _read_bias_shape(shapes: Shapes) -> tuple[int, int]:
    """Buckets and heads of the relative attention bias, from any layer's copy."""
    pattern = re.compile(
        re.escape(BEATS) + r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight"
    )
    keys = sorted(key for key in shapes if pattern.fullmatch(key))
    buckets, heads = _shape(
        shapes, keys[0] if keys else f"{BEATS}encoder.layers.0.self_attn.relative_attention_bias.weight", 2
    )
    return buckets, heads


def _count_layers(shapes: Shapes, prefix: str) -> int:
    """One more than the highest layer number; a gap shows later as a missing key."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _shape(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    if key not in shapes:
        raise OlaError(
            f"tensor {key} is missing, so the model's sizes are unknown; expected in the checkpoint"
        )
    if len(shapes[key]) != axes:
        raise OlaError(f"tensor {key} has shape {list(shapes[key])}, expected {axes} axes")
    return shapes[key]


def _integer(values: Mapping[str, Any], key: str, where: str) -> int:
    value = values.get(key)
    limit = {"tokenizer_model_max_length": NO_LIMIT, "num_hidden_layers": MOST_LAYERS}.get(key, LARGEST)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= limit:
        return value
    too_large = isinstance(value, int) and value > limit
    raise _wrong_number(values, key, where, f" of at most {limit}" if too_large else "")


def _number(values: Mapping[str, Any], key: str, where: str) -> float:
    value = values.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST:
        return float(value)
    raise _wrong_number(values, key, where)


def _wrong_number(values: Mapping[str, Any], key: str, where: str, limit: str = "") -> OlaError:
    found = f"{values[key]!r:.40}" if key in values else "nothing"
    return OlaError(f"{where}: {key}: found {found}, expected a positive number{limit}")


def _check_heads(width: int, heads: int, what: str) -> None:
    if heads <= 0 or width % heads:
        raise OlaError(f"{what}: {width} is not a multiple of {heads}")
