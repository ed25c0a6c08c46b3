"""What a released checkpoint says about its sizes, as an OlaConfig.

The decoder is described by config.json, Whisper by the `dims` of its file, BEATs by the `cfg` of
its file; all else is read off the shapes. Three things are stored nowhere in some layouts: the
vision encoder's number of heads, and with the speech encoder inside, Whisper's number of heads and
BEATs' max_distance. They are assumed, and every assumption is returned as a line to be shown.
"""

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
BEATS_FLAGS = {  # what our BEATs is; a file that says otherwise is another network
    "activation_fn": "gelu",
    "conv_bias": False,
    "deep_norm": True,
    "gru_rel_pos": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
}


def has_vision(values: Mapping[str, Any]) -> bool:
    """Whether config.json speaks of a vision encoder."""
    return values.get("mm_vision_tower") is not None


def has_speech(values: Mapping[str, Any], where: str) -> bool:
    """Whether config.json speaks of a speech encoder. OlaError if it is not the dual one (Whisper, BEATs)."""
    if values.get("speech_encoder") is None:
        return False
    kind = values.get("speech_encoder_type")
    if not isinstance(kind, str) or "dual" not in kind.lower():
        raise OlaError(f"{where}: speech_encoder_type is {kind!r}; ola_jax knows 'dual' (Whisper with BEATs)")
    return True


def assumed_vision_heads(width: int) -> int:
    """The number of attention heads that a vision encoder of this width is taken to have."""
    return SIGLIP_HEADS if width >= SIGLIP_WIDTH else SMALL_HEADS


def processor_config(values: Mapping[str, Any], where: str) -> ProcessorConfig:
    """The processor's config: the original cuts samples at `tokenizer_model_max_length` (quirk C8)."""
    length = values.get("tokenizer_model_max_length")
    if length is None:
        return ProcessorConfig()
    if (
        isinstance(length, int | float) and length > NO_LIMIT
    ):  # 1e30 is what transformers writes for "no limit"
        length = NO_LIMIT
    return ProcessorConfig(
        max_length=_number({"tokenizer_model_max_length": length}, "tokenizer_model_max_length", where)
    )


def ola_config(
    values: Mapping[str, Any],
    shapes: Shapes,
    dims: Mapping[str, Any] | None,
    cfg: Mapping[str, Any] | None,
    vision_heads: int | None,
    whisper_heads: int | None,
    where: str,
) -> tuple[OlaConfig, list[str]]:
    """The model's config, and what had to be assumed.

    `values` is config.json, named `where` in errors; `shapes` are those of all tensors by their
    released keys; `dims` and `cfg` come from the files of Whisper and BEATs, None without them.
    """
    notes = released_fields.check(values, has_vision(values), has_speech(values, where), where)
    parts: dict[str, Any] = {"vision": None, "whisper": None, "beats": None}
    if has_vision(values):
        parts["vision"] = _vision(values, shapes, vision_heads, where, notes)
    if has_speech(values, where):
        parts["whisper"] = _whisper(shapes, dims, whisper_heads, notes)
        parts["beats"] = _beats(shapes, cfg, notes)
        parts["speech_stack"] = _number(values, "speech_encoder_ds_rate", where)
        inner = "model.speech_projector.linear1.weight"  # absent where it is about to be made anew
        if inner in shapes:
            parts["speech_hidden_size"] = _shape(shapes, inner, 2)[0]
    llm = _llm(values, where)
    if llm.rope_scaling:
        notes.append(
            f"rotary positions scaled by YaRN, factor {llm.rope_scaling.factor:g}, as config.json says; the "
            "original's code leaves rope_scaling aside"
        )
    return OlaConfig(llm=llm, **parts), notes


def _llm(values: Mapping[str, Any], where: str) -> Qwen2Config:
    theta, scaling = rope.read(values, where)
    config = Qwen2Config(
        vocab_size=_number(values, "vocab_size", where),
        hidden_size=_number(values, "hidden_size", where),
        num_layers=_number(values, "num_hidden_layers", where),
        num_heads=_number(values, "num_attention_heads", where),
        num_kv_heads=_number(values, "num_key_value_heads", where),
        intermediate_size=_number(values, "intermediate_size", where),
        rope_theta=theta,
        rms_norm_eps=float(_number(values, "rms_norm_eps", where, (int, float))),
        rope_scaling=scaling,
    )
    _check_heads(config.hidden_size, config.num_heads, f"{where}: hidden_size and num_attention_heads")
    if config.head_dim % 2:
        raise OlaError(f"{where}: heads are {config.head_dim} wide; rotary positions need an even width")
    _check_heads(
        config.num_heads, config.num_kv_heads, f"{where}: num_attention_heads and num_key_value_heads"
    )
    return config


def _vision(
    values: Mapping[str, Any], shapes: Shapes, heads: int | None, where: str, notes: list[str]
) -> OryxViTConfig:
    width, _, patch, _ = _shape(shapes, f"{VISION}patch_embed.proj.weight", 4)
    cells = _shape(shapes, f"{VISION}pos_embed", 3)[1]
    if math.isqrt(cells) ** 2 != cells:
        raise OlaError(f"{where}: {VISION}pos_embed has {cells} positions, expected a square grid")
    if heads is None and values.get("mm_vision_num_heads") is not None:
        heads = _number(values, "mm_vision_num_heads", where)
    if heads is None:
        heads = assumed_vision_heads(width)
        notes.append(
            f"vision encoder: assumed {heads} attention heads for width {width} (the released format does "
            "not store the number); --vision-heads N sets it"
        )
    _check_heads(width, heads, "vision encoder's width and number of heads (--vision-heads)")
    return OryxViTConfig(
        hidden_size=width,
        num_layers=_layers(shapes, f"{VISION}blocks."),
        num_heads=heads,
        intermediate_size=_shape(shapes, f"{VISION}blocks.0.mlp.fc1.weight", 2)[0],
        patch_size=patch,
        position_grid=math.isqrt(cells),
    )


def _whisper(
    shapes: Shapes, dims: Mapping[str, Any] | None, heads: int | None, notes: list[str]
) -> WhisperConfig:
    if dims is not None:
        number = lambda key: _number(dims, key, "dims of the Whisper file")
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
            num_layers=_layers(shapes, f"{WHISPER}blocks."),
            num_heads=heads,
        )
    _check_heads(
        config.hidden_size, config.num_heads, "Whisper's width and number of heads (--whisper-heads)"
    )
    return config


def _beats(shapes: Shapes, cfg: Mapping[str, Any] | None, notes: list[str]) -> BeatsConfig:
    cfg = cfg or {}
    where = "cfg of the BEATs file"
    for key, only in BEATS_FLAGS.items():
        if cfg.get(key, only) != only:
            raise OlaError(f"{where}: {key} is {cfg[key]!r}; Ola's BEATs has {only!r}")
    said = lambda key, otherwise: _number(cfg, key, where) if key in cfg else otherwise
    embed, _, patch, _ = _shape(shapes, f"{BEATS}patch_embedding.weight", 4)
    width, group_width, taps = _shape(shapes, f"{BEATS}encoder.pos_conv.0.weight_v", 3)
    buckets, heads = _relative_attention_bias(shapes)
    if "max_distance" not in cfg:
        notes.append(
            f"BEATs: assumed max_distance {BeatsConfig.max_distance}, as in every release (no file with cfg "
            "was given)"
        )
    config = BeatsConfig(
        embed_dim=said("embed_dim", embed),
        hidden_size=said("encoder_embed_dim", width),
        num_layers=said("encoder_layers", _layers(shapes, f"{BEATS}encoder.layers.")),
        num_heads=said("encoder_attention_heads", heads),
        intermediate_size=said(
            "encoder_ffn_embed_dim", _shape(shapes, f"{BEATS}encoder.layers.0.fc1.weight", 2)[0]
        ),
        patch_size=said("input_patch_size", patch),
        num_buckets=said("num_buckets", buckets),
        max_distance=said("max_distance", BeatsConfig.max_distance),
        conv_positions=said("conv_pos", taps),
        conv_groups=said("conv_pos_groups", max(1, width // max(group_width, 1))),
        predictor_classes=shapes.get(f"{BEATS}predictor.weight", (0,))[0],
    )
    _check_heads(config.hidden_size, config.num_heads, "BEATs' width and number of heads")
    _check_heads(config.hidden_size, config.conv_groups, "BEATs' width and groups of its convolution")
    return config


def _relative_attention_bias(shapes: Shapes) -> tuple[int, int]:
    pattern = re.compile(
        re.escape(BEATS) + r"encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight"
    )
    keys = sorted(key for key in shapes if pattern.fullmatch(key))
    buckets, heads = _shape(
        shapes, keys[0] if keys else f"{BEATS}encoder.layers.0.self_attn.relative_attention_bias.weight", 2
    )
    return buckets, heads


def _layers(shapes: Shapes, prefix: str) -> int:
    """One more than the highest layer number; a gap shows later as a missing key."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _shape(shapes: Shapes, key: str, axes: int) -> tuple[int, ...]:
    if key not in shapes:
        raise OlaError(
            f"tensor {key} is missing, so the model's sizes cannot be told; expected in the checkpoint"
        )
    if len(shapes[key]) != axes:
        raise OlaError(f"tensor {key} has shape {list(shapes[key])}, expected {axes} axes")
    return shapes[key]


def _number(values: Mapping[str, Any], key: str, where: str, kinds: tuple[type, ...] = (int,)) -> Any:
    value = values.get(key)
    limit = {"tokenizer_model_max_length": NO_LIMIT, "num_hidden_layers": MOST_LAYERS}.get(key, LARGEST)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= limit:
        found = f"{value!r:.40}" if key in values else "nothing"
        few = f" of at most {limit}" if isinstance(value, kinds) and value > limit else ""
        raise OlaError(f"{where}: {key}: found {found}, expected a positive number{few}")
    return value


def _check_heads(width: int, heads: int, what: str) -> None:
    if heads <= 0 or width % heads:
        raise OlaError(f"{what}: {width} is not a multiple of {heads}")
