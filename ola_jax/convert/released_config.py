"""The OlaConfig of a released checkpoint.

The decoder is described by config.json, Whisper by the `dims` of its file, BEATs by the `cfg` of
its file; all else follows from the shapes. Some layouts store three numbers nowhere: the
vision encoder's heads, and with the speech encoder inside, Whisper's heads and
BEATs' max_distance. They are assumed, and each assumption is returned as a note for the user.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ola_jax.config import OlaConfig, ProcessorConfig, Qwen2Config
from ola_jax.convert import encoder_configs, released_fields, rope
from ola_jax.convert.config_numbers import NO_LIMIT, check_multiple, read_integer, read_number
from ola_jax.convert.encoder_configs import Shapes
from ola_jax.errors import OlaError


def has_vision(values: Mapping[str, Any]) -> bool:
    """True if config.json names a vision encoder."""
    return values.get("mm_vision_tower") is not None


def has_speech(values: Mapping[str, Any], where: str) -> bool:
    """True if config.json names a speech encoder. OlaError unless it is the dual one (Whisper and BEATs)."""
    if values.get("speech_encoder") is None:
        return False
    kind = values.get("speech_encoder_type")
    if not isinstance(kind, str) or "dual" not in kind.lower():
        raise OlaError(f"{where}: speech_encoder_type is {kind!r}; ola_jax knows 'dual' (Whisper with BEATs)")
    return True


def read_processor_config(values: Mapping[str, Any], where: str) -> ProcessorConfig:
    """The processor's config: the original truncates samples at `tokenizer_model_max_length` (quirk C8)."""
    length = values.get("tokenizer_model_max_length")
    if length is None:
        return ProcessorConfig()
    if isinstance(length, int | float) and length > NO_LIMIT:  # transformers writes 1e30 for "no limit"
        length = NO_LIMIT
    return ProcessorConfig(
        max_length=read_integer({"tokenizer_model_max_length": length}, "tokenizer_model_max_length", where)
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
        encoder = encoder_configs.read_vision_config(
            values, where, shapes=shapes, heads=vision_heads, notes=notes
        )
        config = dataclasses.replace(config, vision=encoder)
    if speech:
        config = dataclasses.replace(
            config,
            whisper=encoder_configs.read_whisper_config(shapes, dims=dims, heads=whisper_heads, notes=notes),
            beats=encoder_configs.read_beats_config(shapes, cfg or {}, notes),
            speech_stack=read_integer(values, "speech_encoder_ds_rate", where),
        )
        inner = "model.speech_projector.linear1.weight"
        if inner in shapes:  # else it is about to be initialized
            width = encoder_configs.find_shape(shapes, inner, 2)[0]
            config = dataclasses.replace(config, speech_hidden_size=width)
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
        vocab_size=read_integer(values, "vocab_size", where),
        hidden_size=read_integer(values, "hidden_size", where),
        num_layers=read_integer(values, "num_hidden_layers", where),
        num_heads=read_integer(values, "num_attention_heads", where),
        num_kv_heads=read_integer(values, "num_key_value_heads", where),
        intermediate_size=read_integer(values, "intermediate_size", where),
        rope_theta=theta,
        rms_norm_eps=read_number(values, "rms_norm_eps", where),
        rope_scaling=scaling,
    )
    check_multiple(config.hidden_size, config.num_heads, f"{where}: hidden_size and num_attention_heads")
    if config.head_dim % 2:
        raise OlaError(f"{where}: heads are {config.head_dim} wide; rotary positions need an even width")
    check_multiple(
        config.num_heads, config.num_kv_heads, f"{where}: num_attention_heads and num_key_value_heads"
    )
    return config
