import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import torch

import convert_weights
from ola_jax import checkpoint
from ola_jax.convert import importer, verify
from ola_jax.convert.import_job import prepare_import
from ola_jax.errors import OlaError
from tests.convert import checkpoints
from tests.convert.checkpoints import BEATS_FILE, HF, SPEECH, WHISPER_FILE, read_released, write
from tests.convert.command import run
from tests.convert.test_adapters import write_adapter

SPEECH_OPTIONS = ("--whisper", WHISPER_FILE, "--beats", BEATS_FILE)


def add_one(tensors: checkpoints.Tensors) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("ours") / "ola"
    importer.write_checkpoint(prepare_import(HF, **SPEECH), directory)
    return directory


def test_an_import_is_identical(ours: pathlib.Path) -> None:
    differences = verify.compare_tensors(ours, prepare_import(HF, **SPEECH))
    assert all(one.identical and one.max_abs == one.relative == 0 for one in differences)
    parts = verify.sum_by_part(differences)
    assert list(parts)[-1] == "all"
    assert parts["all"].tensors == len(checkpoints.golden_tensors())
    norm = sum(
        float(t.double().square().sum()) for k, t in checkpoints.golden_tensors().items() if ".mm_proj" in k
    )
    assert parts["vision_projector"].value_squared == pytest.approx(norm)


def test_differences_are_measured(tmp_path: pathlib.Path) -> None:
    released = read_released(HF)
    params = released.params
    layer = params["llm"]["layers"]["mlp"]["up_proj"]["kernel"].astype(np.float32)
    changed = layer.copy()
    changed[1, 5, 7] += 0.5
    params["llm"]["layers"]["mlp"]["up_proj"]["kernel"] = changed
    params["llm"]["norm"]["scale"] = params["llm"]["norm"]["scale"].astype(np.float32)
    checkpoint.save(
        tmp_path / "ola",
        config=released.config,
        processor_config=released.processor_config,
        params=params,
        tokenizer_dir=HF,
        generation_config={},
    )
    found = {one.path: one for one in verify.compare_tensors(tmp_path / "ola", prepare_import(HF))}
    one = found["llm/layers/mlp/up_proj/kernel"]
    assert one.dtypes == ("float32", "bfloat16")
    assert not one.identical
    assert one.max_abs == 0.5
    assert one.relative == pytest.approx(0.5 / np.linalg.norm(layer))
    same_values = found["llm/norm/scale"]
    assert (same_values.identical, same_values.max_abs, same_values.relative) == (False, 0, 0)
    assert sum(not one.identical for one in found.values()) == 2


def test_nan_differs_infinitely_from_numbers_but_not_from_nan(tmp_path: pathlib.Path) -> None:
    def spoil(tensors: checkpoints.Tensors) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].clone()
        tensors["model.norm.weight"][3] = torch.nan

    source = write(tmp_path / "hf", spoil)
    importer.write_checkpoint(prepare_import(source), tmp_path / "ola")
    norm_difference = lambda job: next(
        d for d in verify.compare_tensors(tmp_path / "ola", job) if d.path == "llm/norm/scale"
    )
    assert norm_difference(prepare_import(source)).max_abs == 0
    assert norm_difference(prepare_import(HF)).max_abs == np.inf


def test_another_model_is_refused(ours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    image = write(tmp_path / "hf", checkpoints.without_speech, {"speech_encoder": None})
    with pytest.raises(OlaError, match=r"not the same model: beats/.* is \[32\] here, missing there"):
        verify.compare_tensors(ours, prepare_import(image))
    with pytest.raises(OlaError, match=r"not the same model: .*give the options of import \(--vision-heads"):
        verify.compare_tensors(ours, prepare_import(HF, **SPEECH, vision_heads=2))


def test_command_prints_a_table_and_writes_json(
    ours: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text('["One?", "Two?"]')
    file = tmp_path / "figures.json"
    status = run("verify", "--jax", ours, "--torch", HF, *SPEECH_OPTIONS, "--logits", prompts, "--json", file)
    assert status == 0
    output = capsys.readouterr().out
    for text in ("vision_projector", "identical", "One?", "top-1", "100.00%"):
        assert text in output
    figures = json.loads(file.read_text())
    assert len(figures["tensors"]) == len(jax.tree.leaves(read_released(HF).params))
    assert [one["prompt"] for one in figures["logits"]] == ["One?", "Two?"]
    assert set(figures["logits"][0]) == {"prompt", "positions", "max_abs", "relative", "top1", "kl"}


def test_command_exits_with_status_1_if_values_differ(
    ours: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("verify", "--jax", ours, "--torch", HF) == 0  # the copies inside
    output = capsys.readouterr().out
    assert "same values" in output
    assert "differ" not in output
    assert "float32 and bfloat16" in output
    changed = write(tmp_path / "hf", add_one)
    assert run("verify", "--jax", ours, "--torch", changed, *SPEECH_OPTIONS) == 1
    output = capsys.readouterr().out
    assert "differ" in output
    assert "llm/norm/scale: bfloat16 and bfloat16, max abs" in output


def import_with(target: pathlib.Path, *options: object) -> None:
    convert_weights.main(["import", "--from", *map(str, options), "--to", str(target)])


def test_settings_of_training_do_not_matter(ours: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(ours, tmp_path / "ola" / "model")  # a stage of train.py
    (tmp_path / "ola" / "checkpoints").mkdir()
    file = tmp_path / "ola" / "model" / "config.json"
    values = json.loads(file.read_text())
    values["model"] |= {"attention": "cudnn", "pooling": "pallas", "dtype": "bfloat16", "remat": "full"}
    file.write_text(json.dumps(values))
    prompts = tmp_path / "prompts.json"
    prompts.write_text('["One?"]')
    assert run("verify", "--jax", tmp_path / "ola", "--torch", HF, *SPEECH_OPTIONS, "--logits", prompts) == 0
    values["model"]["llm"]["rope_theta"] = 5e5
    file.write_text(json.dumps(values))
    with pytest.raises(
        OlaError, match=r"same model: llm\.rope_theta is 500000\.0 here, 1000000\.0 there; give"
    ):
        verify.compare_tensors(file.parent, prepare_import(HF, **SPEECH))


def test_an_import_with_an_adapter_and_another_vocabulary_is_identical(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    write_adapter(tmp_path / "adapter", {"r": 4, "lora_alpha": 8})
    prompts = tmp_path / "prompts.json"
    prompts.write_text('["One?"]')
    options = ("--adapter", tmp_path / "adapter", "--vocabulary", "tokenizer", "--dtype", "float32")
    import_with(tmp_path / "ola", HF, *options)
    assert run("verify", "--jax", tmp_path / "ola", "--torch", HF, *options, "--logits", prompts) == 0
    output = capsys.readouterr().out
    assert "100.00%" in output
    assert "identical" in output
    assert run("verify", "--jax", tmp_path / "ola", "--torch", HF, *options[2:]) == 1  # without the adapter
    assert run("verify", "--jax", tmp_path / "ola", "--torch", HF) == 2  # another vocabulary
    assert "is [728, 64] here, [768, 64] there" in capsys.readouterr().err


def test_untrained_parts_are_named_and_not_compared(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    def decoder_only(tensors: checkpoints.Tensors) -> None:
        for key in [key for key in tensors if "vision" in key or "mm_projector" in key or "speech" in key]:
            del tensors[key]

    vision = {k: v for k, v in checkpoints.golden_tensors().items() if ".vision_tower." in k}
    torch.save(vision, tmp_path / "oryx_vit.pth")
    absent = {"mm_vision_tower": None, "speech_encoder": None}
    qwen = write(tmp_path / "qwen", decoder_only, absent)
    options = ("--vision", tmp_path / "oryx_vit.pth", "--init", "vision_projector")
    import_with(tmp_path / "ola", qwen, *options)
    config, params = checkpoint.load(tmp_path / "ola")
    marks = params["vision_projector"]["image_begin"]
    params["vision_projector"]["image_begin"] = marks + 1  # trained
    released = checkpoint.load_released(tmp_path / "ola")
    processor = checkpoint.load_configs(tmp_path / "ola")[1]
    checkpoint.save(
        tmp_path / "trained",
        config=config,
        processor_config=processor,
        params=params,
        tokenizer_dir=qwen,
        generation_config={},
        released=released,
    )
    capsys.readouterr()
    assert run("verify", "--jax", tmp_path / "trained", "--torch", qwen, *options) == 0
    output = capsys.readouterr().out
    assert "not compared, because --init makes them untrained: vision_projector" in output
    assert "identical" in output
    assert "differ" not in output
