"""The config.json, `dims` and `cfg` of an exported model: the inverse of `released_config`."""

from collections.abc import Mapping
from typing import Any

from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, ProcessorConfig, WhisperConfig
from ola_jax.convert import rope
from ola_jax.convert.config_numbers import NO_LIMIT
from ola_jax.convert.encoder_configs import BEATS_FLAGS, assume_vision_heads

WHISPER_NAME, BEATS_NAME = "large-v3.pt", "BEATs.pt"  # if no released config names the files


def make_config_json(
    config: OlaConfig,
    processor_config: ProcessorConfig,
    generation_config: Mapping[str, Any],
    *,
    stored: Mapping[str, Any] | None,
    dtype: str,
    tied: bool,
) -> dict[str, Any]:
    """Builds config.json. Fields of `stored` (the imported one, if any) that our model does not set are kept.

    `dtype`: of the decoder's weights; `tied`: lm_head is the embeddings.
    """
    values = dict(stored) if stored is not None else _new_values(config, generation_config)
    llm = config.llm
    values |= {
        "vocab_size": llm.vocab_size,
        "hidden_size": llm.hidden_size,
        "num_hidden_layers": llm.num_layers,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "intermediate_size": llm.intermediate_size,
        "rms_norm_eps": llm.rms_norm_eps,
        "tie_word_embeddings": tied,
        "dtype" if "dtype" in values and "torch_dtype" not in values else "torch_dtype": dtype,
    }
    values = rope.write_rope(values, llm)
    length = values.get("tokenizer_model_max_length") or 0
    unlimited = length > NO_LIMIT == processor_config.max_length  # keeps the number that the file has
    if not unlimited and (length or processor_config != ProcessorConfig()):
        values["tokenizer_model_max_length"] = processor_config.max_length
    if config.vision and (
        "mm_vision_num_heads" in values
        or assume_vision_heads(config.vision.hidden_size) != config.vision.num_heads
    ):
        values["mm_vision_num_heads"] = config.vision.num_heads
    return values


def make_whisper_dims(config: WhisperConfig, stored: Mapping[str, Any] | None) -> dict[str, int]:
    """Builds `dims` of OpenAI's Whisper format, with a decoder of no layers and one token."""
    dims = dict(stored or {}) | {
        "n_mels": config.num_mels,
        "n_audio_ctx": config.num_positions,
        "n_audio_state": config.hidden_size,
        "n_audio_head": config.num_heads,
        "n_audio_layer": config.num_layers,
    }
    nothing = {"n_vocab": 1, "n_text_ctx": 1, "n_text_state": 1, "n_text_head": 1, "n_text_layer": 0}
    return dims | nothing


def make_beats_cfg(config: BeatsConfig, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Builds `cfg` of the BEATs format; its fields about training are those of the released file."""
    values = {
        **BEATS_FLAGS,
        "finetuned_model": config.predictor_classes > 0,
        "predictor_class": config.predictor_classes,
        "predictor_dropout": 0.0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.0,
        "layer_wise_gradient_decay_ratio": 0.6,
    }
    return (dict(stored) if stored is not None else values) | {
        "embed_dim": config.embed_dim,
        "encoder_embed_dim": config.hidden_size,
        "encoder_layers": config.num_layers,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "input_patch_size": config.patch_size,
        "num_buckets": config.num_buckets,
        "max_distance": config.max_distance,
        "conv_pos": config.conv_positions,
        "conv_pos_groups": config.conv_groups,
    }


def find_foreign_parts(config: OlaConfig) -> list[str]:
    """Settings of this model that the original's format has no tensors or no code for, one line each."""
    lines = []
    if config.vision and config.downsampling != "local_global":
        lines.append(f"downsampling is {config.downsampling!r}, and the original has 'local_global' only")
    if config.beats and not config.whisper:
        lines.append("BEATs is its only audio encoder, and the original always has Whisper")
    return lines


def find_built_in_sizes(config: OlaConfig) -> list[str]:
    """Sizes of this model that differ from constants of the original's code, one line each."""
    fixed = OlaConfig()
    lines = []
    if config.vision and config.vision != OryxViTConfig():
        lines.append("its vision encoder has OryxViT's sizes built in")
    if config.whisper and config.speech_hidden_size != fixed.speech_hidden_size:
        lines.append(f"its speech projector is {fixed.speech_hidden_size} wide inside")
    return lines


def _new_values(config: OlaConfig, generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model that was not imported; fields that our configs lack are those of Ola-7b."""
    ends = generation_config.get("eos_token_id")
    values: dict[str, Any] = {
        "architectures": ["OlaQwenForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": generation_config.get("bos_token_id"),
        "eos_token_id": ends[0] if isinstance(ends, list) else ends,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "max_window_layers": config.llm.num_layers,
        "model_type": "ola_qwen",
        "rope_scaling": None,
        "sliding_window": None,
        "tokenizer_padding_side": "right",
        "transformers_version": "4.43.4",
        "use_cache": True,
        "use_sliding_window": False,
    }
    return values | _media_values(config)


def _media_values(config: OlaConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if config.vision:
        values |= make_vision_fields(config.vision.hidden_size)
    if config.whisper and config.beats:
        width = config.whisper.hidden_size + config.beats.hidden_size
        values |= make_speech_fields(width, config.speech_stack)
    return values


def make_vision_fields(width: int, name: str = "oryx_vit") -> dict[str, str | int | bool | None]:
    """Fields of config.json for a vision encoder."""
    return {
        "freeze_mm_vision_tower": True,
        "mm_hidden_size": width,
        "mm_projector_type": "ola_mlp",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -1,
        "mm_vision_tower": name,
        "unfreeze_mm_vision_tower": False,
        "use_mm_proj": True,
    }


def make_speech_fields(
    width: int, stack: int, *, whisper_name: str = WHISPER_NAME, beats_name: str = BEATS_NAME
) -> dict[str, str | int]:
    """Fields of config.json for the speech encoders; `width`: of both together."""
    return {
        "music_encoder": beats_name,
        "speech_encoder": whisper_name,
        "speech_encoder_ds_rate": stack,
        "speech_encoder_hidden_size": width,
        "speech_encoder_type": "dual",
        "speech_projector_type": "linear",
    }
