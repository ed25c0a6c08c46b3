"""A plain Qwen2.5 with encoders from other files: where training begins."""

import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
import transformers

from ola_jax import checkpoint
from ola_jax.convert import exporter, importer, projector_init
from ola_jax.convert.export_job import prepare_export
from ola_jax.convert.import_job import prepare_import
from ola_jax.convert.names import VISION
from ola_jax.convert.vision_files import read_vision
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, example_batch
from tests.convert import checkpoints
from tests.convert.checkpoints import HF, SPEECH, WHISPER_FILE, Tensors, read_released, write

BOTH = ("vision_projector", "speech_projector")
QWEN = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
QWEN += ("intermediate_size", "rope_theta", "rms_norm_eps", "hidden_act", "tie_word_embeddings")


def decoder_only(tensors: Tensors) -> None:
    for key in [
        key
        for key in tensors
        if not key.startswith(("model.layers.", "model.norm", "lm_head", "model.embed"))
    ]:
        del tensors[key]


@pytest.fixture
def qwen(tmp_path: pathlib.Path) -> pathlib.Path:
    """The golden's decoder as a plain Qwen2.5 checkpoint."""
    source = write(tmp_path / "qwen", decoder_only)
    values = json.loads((source / "config.json").read_text())
    plain = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]} | {
        key: values[key] for key in QWEN
    }
    (source / "config.json").write_text(json.dumps(plain))
    return source


@pytest.fixture
def oryx(tmp_path: pathlib.Path) -> pathlib.Path:
    """The golden's vision encoder as a file of its own, with parts that Ola does not use."""
    own = {k.removeprefix(VISION): v for k, v in checkpoints.golden_tensors().items() if k.startswith(VISION)}
    own |= {"norm.weight": torch.ones(48), "attn_pool.q.weight": torch.ones(48, 48)}
    torch.save({f"vision_tower.{key}": value for key, value in own.items()}, tmp_path / "oryx_vit.pth")
    return tmp_path / "oryx_vit.pth"


def test_models_are_assembled_from_parts(
    qwen: pathlib.Path, oryx: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = prepare_import(qwen, **SPEECH, vision=oryx, init=BOTH)
    assert "oryx_vit.pth: 2 tensors left out that Ola does not use: norm.weight ..." in job.notes
    assert "initialized at random, untrained: vision_projector, speech_projector" in job.notes
    importer.write_checkpoint(job, tmp_path / "ola")
    config, params = checkpoint.load(tmp_path / "ola")
    golden = read_released(HF, **SPEECH)
    assert config == golden.config
    for part in ("llm", "vision", "whisper", "beats"):
        jax.tree.map(np.testing.assert_array_equal, params[part], golden.params[part])
    model, batch = Ola(config), example_batch(config)
    init = lambda key: {part: nn.unbox(model.init(key, batch))["params"][part] for part in BOTH}
    expected = jax.jit(init)(jax.random.key(0))  # jit: other parts are not computed
    for part in BOTH:
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(params[part])} == {"float32"}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params[part], expected[part])
    exporter.write_released(prepare_export(tmp_path / "ola"), tmp_path / "exported")
    values = json.loads((tmp_path / "exported" / "config.json").read_text())
    released = json.loads((HF / "config.json").read_text())
    for key in (
        "model_type",
        "architectures",
        "speech_encoder_type",
        "speech_encoder_hidden_size",
        "mm_hidden_size",
    ):
        assert values[key] == released[key]
    assert (values["speech_encoder"], values["mm_vision_tower"]) == ("whisper.pt", "oryx_vit.pth")
    assert prepare_import(tmp_path / "exported", vision_heads=4, whisper_heads=2).config == config


def test_speech_can_be_added_to_an_image_model(tmp_path: pathlib.Path) -> None:
    image = write(tmp_path / "hf", checkpoints.without_speech, {"speech_encoder": None})
    job = prepare_import(image, **SPEECH, init=("speech_projector",))
    assert job.config == read_released(HF, **SPEECH).config
    with pytest.raises(OlaError, match=r"give both and --init speech_projector to add one"):
        prepare_import(image, **SPEECH)


def test_projectors_of_a_checkpoint_can_be_reinitialized() -> None:
    job = prepare_import(HF, init=("vision_projector",))
    tensor = job.tensors["model.mm_projector.proj1.weight"].read()
    assert not np.array_equal(
        tensor, checkpoints.golden_tensors()["model.mm_projector.proj1.weight"].float().numpy()
    )
    kept = job.tensors["model.speech_projector.linear1.bias"].read().astype(np.float32)
    np.testing.assert_array_equal(
        kept, checkpoints.golden_tensors()["model.speech_projector.linear1.bias"].float()
    )


def test_nothing_is_initialized_unless_requested(qwen: pathlib.Path, oryx: pathlib.Path) -> None:
    for arguments, message in [
        ({"vision": oryx}, r"--vision gives an encoder without its projector: add --init vision_projector"),
        ({"init": ("vision_projector",)}, r"--init vision_projector: the model has no vision encoder"),
        ({"init": ("speech_projector",)}, r"--init speech_projector: the model has no speech encoder"),
        ({"whisper": WHISPER_FILE}, r"leave them out, or give both and --init speech_projector"),
    ]:
        with pytest.raises(OlaError, match=message):
            prepare_import(qwen, **arguments)
    with pytest.raises(OlaError, match=r"has a vision encoder \(mm_vision_tower\); leave out --vision"):
        prepare_import(HF, vision=oryx, init=BOTH)


def test_names_of_parts_are_checked() -> None:
    assert projector_init.parse_parts("vision_projector,speech_projector") == BOTH
    assert projector_init.parse_parts("") == ()
    with pytest.raises(OlaError, match=r"--init llm: expected some of vision_projector,speech_projector"):
        projector_init.parse_parts("llm")


def siglip(directory: pathlib.Path, patch: int = 16) -> transformers.SiglipVisionModel:
    config = transformers.SiglipVisionConfig(
        hidden_size=48, intermediate_size=90, num_hidden_layers=2, num_attention_heads=6,
        image_size=5 * patch, patch_size=patch,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.SiglipVisionModel(config)
    model.save_pretrained(directory)
    return model


def test_siglip_of_transformers_becomes_an_oryx_vit(qwen: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = siglip(tmp_path / "siglip").state_dict()
    by_end = lambda end: next(value for key, value in model.items() if key.endswith(end)).numpy()
    job = prepare_import(qwen, vision=tmp_path / "siglip", init=("vision_projector",))
    assert (job.config.vision.num_heads, job.config.vision.position_grid) == (6, 128)
    assert "siglip: SigLIP's position embeddings resized to 128 x 128" in job.notes
    tensors = job.tensors
    qkv = [by_end(f"layers.1.self_attn.{name}_proj.weight") for name in "qkv"]
    np.testing.assert_array_equal(tensors[f"{VISION}blocks.1.attn.qkv.weight"].read(), np.concatenate(qkv))
    for theirs, name in {
        "layers.0.mlp.fc1.bias": "blocks.0.mlp.fc1.bias",
        "layers.1.layer_norm2.weight": "blocks.1.norm2.weight",
        "patch_embedding.weight": "patch_embed.proj.weight",
        "layers.0.self_attn.out_proj.weight": "blocks.0.attn.proj.weight",
    }.items():
        np.testing.assert_array_equal(tensors[VISION + name].read(), by_end(theirs))
    grid = torch.from_numpy(by_end("position_embedding.weight")).reshape(5, 5, 48).permute(2, 0, 1)[None]
    grid = torch.nn.functional.interpolate(grid, (128, 128), mode="bicubic", align_corners=False)
    found = tensors[f"{VISION}pos_embed"].read().reshape(128, 128, 48)
    np.testing.assert_allclose(found, grid[0].permute(1, 2, 0).numpy(), atol=1e-6)


def test_other_files_are_refused_as_vision_encoders(tmp_path: pathlib.Path) -> None:
    siglip(tmp_path / "siglip14", patch=14)
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    for name, message in [
        ("siglip14", r"patches of 14 pixels; Ola's have 16"),
        ("a.pth", r"not a vision encoder: found no patch_embed\.proj\.weight"),
        ("none.pth", r"none\.pth: no such file"),
    ]:
        with pytest.raises(OlaError, match=message):
            read_vision(tmp_path / name)
    file = tmp_path / "siglip14" / "config.json"
    values = json.loads(file.read_text()) | {"patch_size": 16}
    for change, message in [
        ({"num_attention_heads": "4"}, r"num_attention_heads: found '4', expected a positive number"),
        ({"vision_config": 3}, r"vision_config: found 3, expected an object"),
    ]:
        file.write_text(json.dumps(values | change))
        with pytest.raises(OlaError, match=message):
            read_vision(file.parent)
    with pytest.raises(OlaError, match=r"model_type is 'ola_qwen'; expected transformers' SigLIP"):
        read_vision(HF)
