import json
import math
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ola_jax.convert import adapters, importer
from ola_jax.convert.adapters import fold_adapter
from ola_jax.convert.import_job import prepare_import
from ola_jax.convert.safetensors_reader import read_safetensors
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import HF, Tensors, write

MODULES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.2.mlp.down_proj",
    "model.layers.1.self_attn.k_proj",
)
PREFIX = "base_model.model."
Q_B = f"{PREFIX}{MODULES[0]}.lora_B.weight"


def put(key: str, *shape: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({PREFIX + key: torch.zeros(*shape)})


def write_adapter(
    directory: pathlib.Path,
    config: dict,
    dora: bool = False,
    change: Callable[[Tensors], None] = lambda t: None,
) -> Tensors:
    """A random adapter of MODULES, saved in PEFT's layout; its tensors."""
    generator = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    for number, module in enumerate(MODULES):
        rows, columns = checkpoints.golden_tensors()[f"{module}.weight"].shape
        rank = config["r"] + number if "rank_pattern" in config else config["r"]
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
        if dora:
            name = f"{PREFIX}{module}.lora_magnitude_vector" + (".weight" if number else "")  # both exist
            tensors[name] = torch.rand(rows, generator=generator) + 0.5
    change(tensors)
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "use_dora": dora, "fan_in_fan_out": False} | config
    (directory / "adapter_config.json").write_text(json.dumps(values))
    return tensors


def fold_by_formula(weight: torch.Tensor, tensors: Tensors, module: str, scale: float) -> torch.Tensor:
    """The result in float64."""
    part = lambda name: next((v.double() for k, v in tensors.items() if f"{module}.{name}" in k), None)
    changed = weight.double() + scale * part("lora_B") @ part("lora_A")
    magnitude = part("lora_magnitude_vector")
    if magnitude is not None:
        changed = changed * (magnitude / changed.norm(dim=1))[:, None]
    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "dora", "scales"),
    [
        ({"r": 4, "lora_alpha": 8}, False, (2, 2, 2)),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, False, (4, 4, 4)),
        ({"r": 8, "lora_alpha": 16}, True, (2, 2, 2)),
        ({"r": 2, "lora_alpha": 6, "alpha_pattern": {"mlp.down_proj": 1}}, False, (3, 0.5, 3)),
        ({"r": 2, "lora_alpha": 6, "rank_pattern": {"down_proj": 3, ".*k_proj": 4}}, False, (3, 2, 1.5)),
    ],
)
def test_folded_weights_are_those_of_the_formula(
    config: dict, dora: bool, scales: tuple, dtype: torch.dtype, tmp_path: pathlib.Path
) -> None:
    def cast(tensors: Tensors) -> None:
        for key, value in tensors.items():
            tensors[key] = value.to(dtype)

    source = write(tmp_path / "hf", cast)
    adapter = write_adapter(tmp_path / "adapter", config, dora)
    folded, notes = fold_adapter(read_safetensors(source), tmp_path / "adapter")
    assert notes == [f"{'DoRA' if dora else 'LoRA'} adapter folded into 3 tensors, 0 replaced"]
    base = read_safetensors(source)
    for module, scale in zip(MODULES, scales, strict=True):
        key = f"{module}.weight"
        expected = fold_by_formula(
            checkpoints.golden_tensors()[key].to(dtype), adapter, module, scale
        ).numpy()
        found = folded[key].read()
        assert found.dtype == base[key].read().dtype
        if dtype == torch.float32:
            assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
        else:  # rounded once
            step = np.abs(expected) * 2.0**-8
            assert (np.abs(found.astype(np.float64) - expected) <= step + 1e-6).all()
    untouched = base.keys() - {f"{module}.weight" for module in MODULES}
    assert all(folded[key].read().tobytes() == base[key].read().tobytes() for key in untouched)


def test_size_of_the_blocks_does_not_matter(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path / "adapter", {"r": 4, "lora_alpha": 8}, dora=True)
    undivided, _ = fold_adapter(read_safetensors(HF), tmp_path / "adapter")
    monkeypatch.setattr(adapters, "ROWS", 7)
    blocks, _ = fold_adapter(read_safetensors(HF), tmp_path / "adapter")
    for module in MODULES:
        a, b = (tensors[f"{module}.weight"].read().astype(np.float32) for tensors in (undivided, blocks))
        np.testing.assert_allclose(a, b, rtol=2**-7)


def test_adapter_is_folded_in_at_import(tmp_path: pathlib.Path) -> None:
    config = {"r": 4, "lora_alpha": 2 * math.sqrt(4), "use_rslora": True}
    adapter = write_adapter(tmp_path / "adapter", config)
    job = prepare_import(HF, adapter=tmp_path / "adapter")
    assert any("LoRA adapter folded into 3 tensors" in note for note in job.notes)
    found = {leaf.entry.path: piece for leaf, _, piece in importer.read_pieces(job)}
    weight = checkpoints.golden_tensors()["model.layers.2.mlp.down_proj.weight"]
    expected = fold_by_formula(weight, adapter, "model.layers.2.mlp.down_proj", 2.0).T.numpy()
    assert found["llm/layers/mlp/down_proj/kernel"].dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(
        found["llm/layers/mlp/down_proj/kernel"][2].astype(np.float64), expected, rtol=2**-8
    )


def test_tensors_that_were_trained_replace_those_of_the_base(tmp_path: pathlib.Path) -> None:
    bias = torch.randn(64)
    change = lambda tensors: tensors.update({f"{PREFIX}model.layers.0.self_attn.q_proj.bias": bias})
    write_adapter(tmp_path / "adapter", {"r": 2, "lora_alpha": 2, "bias": "lora_only"}, change=change)
    projector = torch.randn(64, 48)
    extra = {"base_model.model.model.mm_projector.proj1.weight": projector}  # as the original saves them
    torch.save(extra, tmp_path / "adapter" / "non_lora_trainables.bin")
    folded, notes = fold_adapter(read_safetensors(HF), tmp_path / "adapter")
    assert notes == ["LoRA adapter folded into 3 tensors, 2 replaced"]
    for key, value in {
        "model.layers.0.self_attn.q_proj.bias": bias,
        "model.mm_projector.proj1.weight": projector,
    }.items():
        np.testing.assert_array_equal(folded[key].read().astype(np.float32), value.bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"peft_type": "LOHA"}, lambda t: None, r"peft_type is 'LOHA'; expected LORA"),
        ({"fan_in_fan_out": True}, lambda t: None, r"fan_in_fan_out is on"),
        ({"r": 0}, lambda t: None, r"r: found 0, expected a positive number"),
        ({}, lambda t: t.pop(Q_B), r"has \['lora_A'\], expected \['lora_A', 'lora_B'\]"),
        ({}, put("model.x.lora_A.weight", 1, 1), r"changes model\.x\.weight, which"),
        ({}, put("model.x.bias", 3), r"model\.x\.bias \[3\] replaces .* nothing"),
        ({}, put(f"{MODULES[0]}.lora_B.weight", 3, 4), r"lora_B of .* is \[3, 4\], expected \[64, 4\]"),
        ({}, put("model.x.lora_E", 3), r"cannot be folded into weights; LoRA and DoRA can"),
        ({}, put("model.embed_tokens.lora_embedding_A", 3), r"expected \['lora_embedding_A', 'lora_emb"),
        ({"use_dora": True}, lambda t: None, r"expected \['lora_A', 'lora_B', 'lora_magnitude_vector'\]"),
    ],
)  # fmt: skip
def test_adapter_that_does_not_fit_is_refused(
    config: dict, change: Callable, message: str, tmp_path: pathlib.Path
) -> None:
    write_adapter(tmp_path / "adapter", {"r": 4, "lora_alpha": 8}, change=change)
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(OlaError, match=message):
        fold_adapter(read_safetensors(HF), tmp_path / "adapter")


def test_directory_without_an_adapter_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=r"adapter_config\.json: no such file"):
        fold_adapter({}, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')
    with pytest.raises(
        OlaError, match=r"no adapter: expected adapter_model\.safetensors or adapter_model\.bin"
    ):
        fold_adapter({}, tmp_path)
