"""Adapters that PEFT saved, compared with what PEFT merges them to."""

import functools
import json
import pathlib
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ola_jax.convert.adapters import fold_adapter
from ola_jax.convert.import_job import prepare_import
from ola_jax.convert.safetensors_reader import read_safetensors
from ola_jax.errors import OlaError
from tests.convert.checkpoints import HF

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rope_theta": 1e6,
}
LINEAR = ("q_proj", "o_proj", "down_proj")
VOCABULARY = ("embed_tokens", "lm_head")
# Both compute in float32, in different orders: some roundings of the largest value.
FLOAT32 = 2e-6
# PiSSA's decomposition is in float32 in PyTorch and in float64 here: its error times the spread of W.
DECOMPOSED = 2e-5
# Ours is rounded to bfloat16 once, PEFT's up to three times: after the initialisation, the product, the sum.
BFLOAT16 = 1.5 * 2**-8

CASES: dict[str, dict[str, Any]] = {
    "LoRA": {"target_modules": LINEAR},
    "all linear layers": {"target_modules": "all-linear", "lora_dropout": 0.1, "task_type": "CAUSAL_LM"},
    "by a pattern": {"target_modules": r".*layers\.1\..*(q|v)_proj"},
    "some layers": {"target_modules": LINEAR, "layers_to_transform": [1]},
    "rank-stabilised": {"target_modules": LINEAR, "use_rslora": True},
    "DoRA": {"target_modules": LINEAR, "use_dora": True},
    "DoRA, rank-stabilised": {"target_modules": LINEAR, "use_dora": True, "use_rslora": True},
    "alpha patterns that overlap": {
        "target_modules": LINEAR,
        "alpha_pattern": {"self_attn.q_proj": 5, "q_proj": 7, r"layers\.1\..*": 11, "proj": 13, "down": 17},
    },
    "alpha pattern of a start": {"target_modules": LINEAR, "alpha_pattern": {r"^model.layers.0.*": 3}},
    "alpha pattern with choices": {"target_modules": LINEAR, "alpha_pattern": {"q_proj|o_proj": 3}},
    "rank patterns that overlap": {
        "target_modules": LINEAR,
        # in the order of the alphabet, in which PEFT writes them: it cannot load its own file otherwise
        "rank_pattern": {"down_proj": 3, r"mlp\..*": 5, r"self_attn\.(q|o)_proj": 6},
        "alpha_pattern": {"down_proj": 2},
        "use_rslora": True,
    },
    "biases of all": {"target_modules": LINEAR, "bias": "all"},
    "biases of LoRA": {"target_modules": LINEAR, "bias": "lora_only"},
    "bias of B": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "bias of B, biases of all": {"target_modules": ["q_proj"], "lora_bias": True, "bias": "all"},
    "lm_head": {"target_modules": ["q_proj", "lm_head"]},
    "lm_head, DoRA": {"target_modules": ["lm_head"], "use_dora": True},
    "embeddings": {"target_modules": ["embed_tokens", "v_proj"]},
    "embeddings, rank-stabilised": {"target_modules": ["embed_tokens"], "use_rslora": True, "r": 6},
    "embeddings, DoRA": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "both ends": {"target_modules": [*LINEAR, *VOCABULARY]},
    "modules trained": {"target_modules": LINEAR, "modules_to_save": VOCABULARY},
    "blocks trained": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["mlp", "norm"],
        "bias": "all",
    },
    "PiSSA": {"target_modules": [*LINEAR, "up_proj"], "init_lora_weights": "pissa"},
    "PiSSA, ranks": {
        "target_modules": LINEAR,
        "init_lora_weights": "pissa",
        "rank_pattern": {"o_proj": 9},
        "alpha_pattern": {"o_proj": 3},
    },
    "PiSSA of lm_head": {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": "pissa"},
    "PiSSA, DoRA": {"target_modules": LINEAR, "init_lora_weights": "pissa", "use_dora": True},
    "OLoRA": {"target_modules": [*LINEAR, "up_proj"], "init_lora_weights": "olora"},
    "OLoRA, rank-stabilised": {"target_modules": LINEAR, "init_lora_weights": "OLoRA", "use_rslora": True},
    "MiCA": {"target_modules": LINEAR, "init_lora_weights": "mica"},
    "Gaussian": {"target_modules": LINEAR, "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": LINEAR, "init_lora_weights": "orthogonal"},
    "EVA": {"target_modules": LINEAR, "init_lora_weights": "eva", "eva_config": peft.EvaConfig()},
}
TIED: dict[str, dict[str, Any]] = {
    "LoRA": {"target_modules": LINEAR},
    "embeddings": {"target_modules": ["embed_tokens"]},
    "embeddings, DoRA": {"target_modules": ["embed_tokens"], "use_dora": True},
    "lm_head": {"target_modules": ["lm_head"]},
    "both ends": {"target_modules": VOCABULARY},
    "both ends, tied adapters": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "lm_head trained": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embeddings, lm_head trained": {
        "target_modules": ["embed_tokens"],
        "modules_to_save": ["lm_head"],
    },
}


def base(directory: pathlib.Path, dtype: torch.dtype = torch.float32, tied: bool = False) -> pathlib.Path:
    """The checkpoint of a random decoder, biases and norms random too; written once."""
    if directory.exists():
        return directory
    torch.manual_seed(3)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.to(dtype).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if (HF / name).exists():
            shutil.copyfile(HF / name, directory / name)
    return directory


def load(source: pathlib.Path, dtype: torch.dtype = torch.float32) -> transformers.Qwen2ForCausalLM:
    return transformers.Qwen2ForCausalLM.from_pretrained(source, dtype=dtype)


def save_adapter(
    source: pathlib.Path,
    target: pathlib.Path,
    settings: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Saves a trained adapter with PEFT: everything trainable is changed at random."""
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    model = peft.get_peft_model(load(source, dtype), peft.LoraConfig(**{"r": 4, "lora_alpha": 10} | settings))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(target)


def merge_by_peft(
    source: pathlib.Path, adapter: pathlib.Path, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    model = peft.PeftModel.from_pretrained(load(source, dtype), adapter).merge_and_unload()
    return {key: value.float().numpy() for key, value in model.state_dict().items()}


def assert_same(source: pathlib.Path, adapter: pathlib.Path, expected: Mapping, tolerance: float) -> None:
    """All tensors agree; those that the adapter does not change, bit for bit."""
    before = read_safetensors(source)
    tied = "lm_head.weight" not in before
    if tied:
        before["lm_head.weight"] = before["model.embed_tokens.weight"]
    after, _ = fold_adapter(before, adapter, tied=tied)
    assert after.keys() == expected.keys()
    changed = 0
    for key, theirs in expected.items():
        ours, old = after[key].read(), before[key].read()
        assert ours.dtype == old.dtype
        ours, old = ours.astype(np.float32), old.astype(np.float32)
        if np.array_equal(theirs, old):
            np.testing.assert_array_equal(ours, old, err_msg=key)
            continue
        changed += 1
        largest = np.abs(theirs).max()
        assert np.abs(theirs - old).max() > 0.05 * largest, key  # an unchanged tensor would fail
        np.testing.assert_allclose(ours, theirs, atol=tolerance * largest, rtol=0, err_msg=key)
    assert changed


@functools.cache
def quiet() -> None:
    """Suppresses progress bars of transformers."""
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _peft_may_warn() -> Any:
    quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize("name", CASES)
def test_folded_weights_are_those_of_peft(name: str, places: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = base(places / "float32")
    save_adapter(source, tmp_path / "adapter", CASES[name])
    tolerance = DECOMPOSED if "init_lora_weights" in CASES[name] else FLOAT32
    assert_same(source, tmp_path / "adapter", merge_by_peft(source, tmp_path / "adapter"), tolerance)


@pytest.mark.parametrize("name", TIED)
def test_tied_embeddings_change_as_in_peft(name: str, places: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = base(places / "tied", tied=True)
    save_adapter(source, tmp_path / "adapter", TIED[name])
    assert_same(source, tmp_path / "adapter", merge_by_peft(source, tmp_path / "adapter"), FLOAT32)


@pytest.mark.parametrize("name", ["LoRA", "DoRA", "embeddings, DoRA", "biases of all", "PiSSA", "OLoRA"])
def test_weights_folded_into_bfloat16_are_those_of_peft_up_to_rounding(
    name: str, places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = base(places / "bfloat16", torch.bfloat16)
    save_adapter(source, tmp_path / "adapter", CASES[name], torch.bfloat16)
    expected = merge_by_peft(source, tmp_path / "adapter", torch.bfloat16)
    assert_same(source, tmp_path / "adapter", expected, BFLOAT16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["DoRA", "both ends", "biases of all"])
def test_adapters_of_any_dtype_are_folded_in(
    name: str, dtype: torch.dtype, places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, adapter = base(places / "float32"), tmp_path / "adapter"
    save_adapter(source, adapter, CASES[name])
    file = adapter / "adapter_model.safetensors"
    save_file({key: value.to(dtype) for key, value in load_file(file).items()}, file)
    assert_same(source, adapter, merge_by_peft(source, adapter), FLOAT32)


def test_adapter_of_a_resized_vocabulary_follows_the_tokenizer(
    places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = tmp_path / "base"
    shutil.copytree(base(places / "float32"), source)
    grown = load(source)
    grown.resize_token_embeddings(728)  # the tokenizer's
    grown.save_pretrained(tmp_path / "grown")
    for number, settings in enumerate([CASES["LoRA"], CASES["modules trained"], CASES["both ends"]]):
        adapter = tmp_path / f"adapter{number}"
        save_adapter(tmp_path / "grown", adapter, settings)
        if number == 0:  # saved in full since their size differs from the base's
            model = peft.PeftModel.from_pretrained(load(tmp_path / "grown"), adapter)
            model.save_pretrained(adapter, save_embedding_layers=True)
        expected = merge_by_peft(tmp_path / "grown", adapter)
        job = prepare_import(source, adapter=adapter, resize_vocabulary=True)
        assert job.config.llm.vocab_size == 728
        for key, theirs in expected.items():
            atol = FLOAT32 * np.abs(theirs).max()
            np.testing.assert_allclose(job.tensors[key].read(), theirs, atol=atol, rtol=0, err_msg=key)
        with pytest.raises(OlaError, match=r"--vocabulary tokenizer resizes"):
            fold_adapter(read_safetensors(source), adapter)


def test_adapter_with_a_name_or_other_prefixes_is_the_same_adapter(
    places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, adapter = base(places / "float32"), tmp_path / "adapter"
    save_adapter(source, adapter, CASES["blocks trained"] | {"use_dora": True})
    expected = merge_by_peft(source, adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)

    def named(key: str) -> str:
        key = key.replace(".mlp.", ".mlp.modules_to_save.mine.").replace("lora_A.w", "lora_A.mine.w")
        return key.replace("lora_B.w", "lora_B.mine.w").replace("_vector", "_vector.mine.weight")

    for change in (
        named,
        lambda key: key.replace(".mlp.", ".mlp.modules_to_save."),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.removeprefix("base_model.model.").removeprefix("model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model."),
        lambda key: key.replace("layers.", "_fsdp_wrapped_module._orig_mod.layers."),
    ):
        save_file({change(key): value for key, value in tensors.items()}, file)
        assert_same(source, adapter, expected, FLOAT32)
    two = {named(key): value for key, value in tensors.items()}
    two |= {
        named(key).replace("mine", "other"): value.clone() for key, value in tensors.items() if "lora_" in key
    }
    save_file(two, file)
    with pytest.raises(OlaError, match=r"several adapters in one file: mine, other"):
        fold_adapter(read_safetensors(source), adapter)


def test_converted_pissa_is_a_plain_adapter(places: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = base(places / "float32")
    config = peft.LoraConfig(r=4, lora_alpha=10, target_modules=list(LINEAR), init_lora_weights="pissa")
    model = peft.get_peft_model(load(source), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.peft_config["default"].init_lora_weights = "pissa"
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter, path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert json.loads((adapter / "adapter_config.json").read_text())["init_lora_weights"] is True
    assert_same(source, adapter, merge_by_peft(source, adapter), DECOMPOSED)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"init_lora_weights": "pissa_niter_4"},
            r"is 'pissa_niter_4', .* its decomposition was random",
        ),
        ({"init_lora_weights": "loftq"}, r"init_lora_weights is 'loftq', which changed the base"),
        ({"init_lora_weights": "corda"}, r"init_lora_weights is 'corda', which changed the base"),
        ({"init_lora_weights": "lora_ga"}, r"init_lora_weights is 'lora_ga', .* path_initial_model"),
        ({"init_lora_weights": "new"}, r"init_lora_weights is 'new', which is not known"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices is on \(\[1, 2\]\)"),
        ({"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication is on"),
        ({"target_parameters": ["q_proj.weight"]}, r"target_parameters is on"),
        ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens is on"),
        ({"use_qalora": True}, r"use_qalora is on"),
        ({"kasa_config": {"beta": 1}}, r"kasa_config is on"),
        ({"megatron_config": {"a": 1}}, r"megatron_config is on"),
        ({"use_newest": 1}, r"unknown field 'use_newest', 1: its effect is not known"),
        ({"bias": "some"}, r"bias: found 'some'"),
        ({"use_dora": "yes"}, r"use_dora: found 'yes', expected true or false"),
        ({"r": 8}, r"lora_A of .* is \[4, \d+\], expected \[8, \d+\] by the base and the rank"),
        ({"r": True}, r"r: found True"),
        ({"lora_alpha": float("nan")}, r"lora_alpha: found nan"),
        ({"alpha_pattern": {"(": 3}}, r"alpha_pattern: '\(' is not a pattern"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern: q_proj: found 0"),
        ({"target_modules": ["q_proj", "k_proj"]}, r"holds nothing of 'k_proj', which target_modules names"),
        ({"modules_to_save": ["lm_head"]}, r"holds nothing of 'lm_head', which modules_to_save names"),
    ],
)
def test_unknown_and_unsupported_fields_are_refused_by_name(
    settings: dict, message: str, places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, adapter = base(places / "float32"), tmp_path / "adapter"
    save_adapter(source, adapter, CASES["LoRA"])
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(OlaError, match=message):
        fold_adapter(read_safetensors(source), adapter)


def test_adapter_without_tensors_is_refused(places: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, adapter = base(places / "float32"), tmp_path / "adapters" / "one"
    save_adapter(source, adapter, CASES["LoRA"])
    with pytest.raises(OlaError, match=r"holds 1 adapters: one; name one of them"):
        fold_adapter(read_safetensors(source), tmp_path / "adapters")
    save_file({}, adapter / "adapter_model.safetensors")
    with pytest.raises(OlaError, match=r"holds no tensors of LoRA; save the adapter again"):
        fold_adapter(read_safetensors(source), adapter)
    save_file({"base_model.model.lm_head.weight": torch.ones(60, 32)}, adapter / "adapter_model.safetensors")
    with pytest.raises(OlaError, match=r"no tensors of LoRA, but target_modules is \["):
        fold_adapter(read_safetensors(source), adapter)


def test_folded_values_beyond_the_range_of_the_base_are_refused(
    places: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source, adapter = base(places / "float16", torch.float16), tmp_path / "adapter"
    save_adapter(source, adapter, {"target_modules": ["q_proj"], "lora_alpha": 10**7}, torch.float16)
    folded, _ = fold_adapter(read_safetensors(source), adapter)
    with pytest.raises(OlaError, match=r"q_proj\.weight has values beyond the range of float16"):
        folded["model.layers.0.self_attn.q_proj.weight"].read()
