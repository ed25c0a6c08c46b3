"""The fields of a released config.json, and the values that our model requires of them.

`released_config` and `rope` read the sizes and the rotary positions. Of the other fields, some must have
a certain value and some change no number. A note names every field that is in neither list.
"""

import re
from collections.abc import Mapping
from typing import Any

from ola_jax.errors import OlaError

READ = {
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "rms_norm_eps", "tie_word_embeddings", "initializer_range"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    *("max_position_embeddings", "original_max_position_embeddings"),
    *("mm_vision_tower", "mm_vision_num_heads", "tokenizer_model_max_length"),
    *("speech_encoder", "speech_encoder_type", "speech_encoder_ds_rate", "music_encoder"),
}

Value = str | bool | int | None  # None: the field is absent or null

DECODER: dict[str, tuple[Value, ...]] = {
    "hidden_act": (None, "silu"),
    "use_sliding_window": (None, False),
    "use_mrope": (None, False),
    "mlp_bias": (None, False),
    "qk_norm": (None, False),
    "use_qk_norm": (None, False),
    "quantization_config": (None,),
    "compression_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None, 1),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
    "scale_emb": (None, 1),
}
VISION: dict[str, tuple[Value, ...]] = {
    "mm_projector_type": (None, "ola_mlp"),
    "mm_resampler_type": (None,),
    "mm_use_im_patch_token": (None, False),
    "mm_use_im_start_end": (None, False),
    "use_mm_proj": (None, True),
}
SPEECH: dict[str, tuple[Value, ...]] = {"speech_projector_type": (None, "linear")}

# About training or the program that wrote the file, or implied by the shapes and dtypes of the tensors.
HARMLESS = re.compile(
    r"_.*|architectures|attention_bias|attention_dropout|auto_map|chunk_size_feed_forward|dtype|torch_dtype|"
    r".*transformers_version|bos_token_id|eos_token_id|pad_token_id|sep_token_id|decoder_start_token_id|"
    r"cross_attention_.*|is_decoder|is_encoder_decoder|add_cross_attention|id2label|label2id|finetuning_task|"
    r"output_attentions|output_hidden_states|return_dict|torchscript|pruned_heads|tie_encoder_decoder|"
    r"tf_legacy_loss|use_bfloat16|prefix|problem_type|task_specific_params|tokenizer_class|"
    r"max_window_layers|sliding_window|use_cache|pretraining_tp|layer_types|head_dim|model_type|"
    r"num_beams|num_beam_groups|do_sample|temperature|top_[kp]|typical_p|repetition_penalty|length_penalty|"
    r"diversity_penalty|early_stopping|encoder_no_repeat_ngram_size|no_repeat_ngram_size|max_length|min_length|"
    r"bad_words_ids|begin_suppress_tokens|suppress_tokens|exponential_decay_length_penalty|forced_.*_token_id|"
    r"num_return_sequences|output_scores|return_dict_in_generate|remove_invalid_values|"
    r"(un)?freeze_.*|tune_.*|.*_lr|tokenizer_padding_side|image_.*|mm_hidden_size|mm_patch_merge_type|"
    r"mm_tunable_parts|mm_spatial_pool_.*|mm_newline_position|mm_perceiver_.*|mm_qformer_.*|mm_pooler_.*|"
    r"mm_vision_select_.*|vision_tower_pretrained|use_pos_skipping|pos_skipping_range|add_.*faster_video.*|force_sample|"
    r"max_num_.*|s2.*|speech_encoder_hidden_size|speech_encoder_.*config|.*speech_generator.*"
)
LISTED = 5  # unknown fields that the note names


def check_fields(values: Mapping[str, Any], where: str, *, vision: bool, speech: bool) -> list[str]:
    """Raises OlaError for a field of another model; returns a note that names unknown fields."""
    needed = DECODER | (VISION if vision else {}) | (SPEECH if speech else {})
    for key, allowed in needed.items():
        value = values.get(key)
        if not any(value == good and isinstance(value, bool) == isinstance(good, bool) for good in allowed):
            expected = next((good for good in allowed if good is not None), None)
            raise OlaError(f"{where}: {key} is {value!r:.80}; ola_jax's model has {expected!r}")
    _check_kind(values, where)
    for key in ("mm_vision_tower", "speech_encoder", "music_encoder"):
        if not isinstance(values.get(key), str | None):
            raise OlaError(f"{where}: {key}: found {values[key]!r:.60}, expected the name of a file")
    if not isinstance(values.get("tie_word_embeddings"), bool | None):
        tied = values["tie_word_embeddings"]
        raise OlaError(f"{where}: tie_word_embeddings: found {tied!r:.60}, expected true or false")
    unknown = [
        key
        for key, value in values.items()
        if value not in (None, False, "", [], {})
        and key not in READ | DECODER.keys() | VISION.keys() | SPEECH.keys()
        and not HARMLESS.fullmatch(key)
    ]
    if not unknown:
        return []
    names = ", ".join(unknown[:LISTED]) + (" ..." if len(unknown) > LISTED else "")
    return [f"config.json: unknown fields, ignored: {names}"]


def _check_kind(values: Mapping[str, Any], where: str) -> None:
    kind = values.get("model_type")
    if kind is not None and not re.fullmatch(r"qwen2(_5)?|\w+_qwen(2(_5)?)?", str(kind)):
        raise OlaError(
            f"{where}: model_type is {kind!r:.40}; expected qwen2, ola_qwen or another with Qwen2's decoder"
        )
    width, heads, head_dim = (values.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    if (
        head_dim is not None
        and isinstance(width, int)
        and isinstance(heads, int)
        and head_dim * heads != width
    ):
        raise OlaError(
            f"{where}: head_dim is {head_dim!r:.40}; ola_jax's decoder has hidden_size / num_attention_heads "
            f"({width} / {heads})"
        )
    layers = values.get("layer_types")
    if layers is not None and (
        not isinstance(layers, list) or any(one != "full_attention" for one in layers)
    ):
        raise OlaError(f"{where}: layer_types is {layers!r:.80}; ola_jax's decoder has only 'full_attention'")
