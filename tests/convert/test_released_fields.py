import pytest

from ola_jax.convert.released_fields import check_fields
from ola_jax.errors import OlaError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "gelu_new"}, r"hidden_act is 'gelu_new'; ola_jax's model has 'silu'"),
        ({"use_sliding_window": True}, r"use_sliding_window is True; .* False"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantization_config is {'quant_meth",
        ),
        ({"mm_projector_type": "mlp2x_gelu"}, r"mm_projector_type is 'mlp2x_gelu'; .* 'ola_mlp'"),
        ({"mm_resampler_type": "perceiver"}, r"mm_resampler_type is 'perceiver'; .* None"),
        ({"speech_projector_type": "qformer"}, r"speech_projector_type is 'qformer'; .* 'linear'"),
        ({"model_type": "llama"}, r"model_type is 'llama'; expected qwen2"),
        ({"model_type": "qwen2_moe"}, r"model_type is 'qwen2_moe'"),
        ({"model_type": "qwen3"}, r"model_type is 'qwen3'"),
        ({"head_dim": 128, "hidden_size": 64, "num_attention_heads": 4}, r"head_dim is 128; .*64 / 4"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types is \['full_attention', 's"),
        ({"num_experts": 8}, r"num_experts is 8"),
        ({"final_logit_softcapping": 30.0}, r"final_logit_softcapping is 30\.0"),
        ({"speech_encoder": {"a": 1}}, r"speech_encoder: found {'a': 1}, expected the name of a file"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings: found 'yes', expected true or false"),
        ({"mlp_bias": True}, r"mlp_bias is True"),
    ],
)
def test_field_of_another_model_is_refused_by_name(values: dict, message: str) -> None:
    with pytest.raises(OlaError, match=r"config\.json: " + message):
        check_fields(values, vision=True, speech=True, where="config.json")


def test_fields_of_absent_parts_do_not_matter() -> None:
    values = {"mm_projector_type": "linear", "speech_projector_type": "qformer"}
    assert not check_fields(values, vision=False, speech=False, where="config.json")


def test_fields_that_change_no_number_are_accepted_without_a_note() -> None:
    values = {
        "attention_dropout": 0.1,
        "model_type": "ola_qwen",
        "sliding_window": 131_072,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * 3,
        "head_dim": 16,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "mm_projector_lr": 2e-5,
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "anyres",
        "_name_or_path": "there",
        "transformers_version": "4.43.4",
        "mlp_bias": False,
    }
    assert not check_fields(values, vision=True, speech=True, where="config.json")


def test_unknown_fields_are_named_unless_they_are_empty() -> None:
    values = {"new_kind_of_norm": "pre", "other": None, "off": False, "empty": []}
    [note] = check_fields(values, vision=True, speech=True, where="config.json")
    assert "config.json: unknown fields, ignored: new_kind_of_norm" in note
