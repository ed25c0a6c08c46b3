import json
import pathlib

import numpy as np
import pytest
from flax import traverse_util

from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, Qwen2Config, WhisperConfig
from ola_jax.convert.names import BEATS, BY_PATH, TABLE, WHISPER, num_layers, to_jax, to_torch
from ola_jax.convert.parameter_matching import match_parameters
from ola_jax.convert.released_config import read_ola_config
from ola_jax.models.ola import parameter_shapes

MANIFEST = json.loads((pathlib.Path(__file__).parents[1] / "goldens" / "ola_7b_manifest.json").read_text())
SMALL = OlaConfig(
    llm=Qwen2Config(48, 24, 3, 4, 2, 40),
    vision=OryxViTConfig(16, 2, 2, 36, 4, 3),
    whisper=WhisperConfig(8, 60, 24, 3, 2),
    beats=BeatsConfig(10, 16, 2, 2, 20, 4, 128, 32, 100, 6, 4, 5),
    speech_stack=3,
    speech_hidden_size=14,
)
NO_OPTIONS = OlaConfig(
    llm=Qwen2Config(40, 16, 1, 2, 1, 12),
    vision=OryxViTConfig(20, 3, 5, 28, 2, 5),
    whisper=WhisperConfig(4, 50, 8, 1, 1),
    beats=BeatsConfig(16, 16, 3, 4, 20, 8, 128, 16, 50, 5, 2, 0),  # no post_extract_proj, no predictor
)
TEXT_ONLY = OlaConfig(llm=SMALL.llm, vision=None, whisper=None, beats=None)
IMAGE_ONLY = OlaConfig(llm=SMALL.llm, vision=SMALL.vision, whisper=None, beats=None)


def random_tensors(config: OlaConfig, seed: int) -> dict[str, np.ndarray]:
    """Random tensors under all keys of a released checkpoint of this size."""
    rng, tensors = np.random.default_rng(seed), {}
    for path, leaf in parameter_shapes(config).items():
        entry = BY_PATH[path]
        shape, values = entry.torch_shape(leaf.shape), None
        for key in entry.keys(num_layers(config, entry)):
            if values is None or not entry.copies:
                values = rng.normal(size=shape).astype(np.float32)
            tensors[key] = values
    return tensors


@pytest.mark.parametrize("config", [SMALL, NO_OPTIONS, TEXT_ONLY, IMAGE_ONLY])
def test_to_torch_is_the_inverse_of_to_jax(config: OlaConfig) -> None:
    tensors = random_tensors(config, seed=config.llm.hidden_size)
    params = to_jax(config, tensors)
    expected = {path: leaf.shape for path, leaf in parameter_shapes(config).items()}
    assert {k: v.shape for k, v in traverse_util.flatten_dict(params, sep="/").items()} == expected
    exported = dict(to_torch(config, params))
    assert exported.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(exported[key], tensor, err_msg=key)


def test_keys_and_paths_of_the_table_are_unique() -> None:
    assert len({entry.path for entry in TABLE}) == len(TABLE)
    assert len({entry.torch for entry in TABLE}) == len(TABLE)


def manifest(*sections: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for section in sections for key, shape in MANIFEST[section].items()}


def speech_files() -> dict[str, tuple[int, ...]]:
    whisper, beats = MANIFEST["whisper_pt_model_state_dict"], MANIFEST["beats_pt_model"]
    inside = {k.replace("encoder.", WHISPER, 1): v for k, v in whisper.items() if k.startswith("encoder.")}
    return {k: tuple(v) for k, v in (inside | {BEATS + k: v for k, v in beats.items()}).items()}


@pytest.mark.parametrize("speech", ["inside", "separate"])
def test_all_of_the_7b_manifest_maps_onto_the_model(speech: str) -> None:
    shapes = manifest("llm_vision_projectors")
    if speech == "inside":
        shapes |= manifest("speech_encoder_if_saved_in_checkpoint")
    else:
        shapes |= speech_files()
    leaves = match_parameters(OlaConfig(), shapes, "manifest")
    assert {leaf.entry.path for leaf in leaves} == {entry.path for entry in TABLE}
    used = [key for leaf in leaves for key in (*leaf.keys, *leaf.copies)]
    assert sorted(used) == sorted(shapes)
    elements = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    assert elements == MANIFEST["counts"]["named_parameters_unique_elements"] + 1500 * 1280  # and a buffer


def test_sizes_of_the_7b_release_are_recognised() -> None:
    values = MANIFEST["config"] | {
        "speech_encoder": "large-v3.pt",
        "speech_encoder_type": "dual",
        "mm_vision_tower": "oryx_vit",
    }
    shapes = manifest("llm_vision_projectors", "speech_encoder_if_saved_in_checkpoint")
    dims, cfg = MANIFEST["whisper_dims"], MANIFEST["beats_cfg"]
    config, notes = read_ola_config(values, "config.json", shapes=shapes, dims=dims, cfg=cfg)
    assert config == OlaConfig()
    assert len(notes) == 1
    assert "assumed 16 attention heads" in notes[0]
    alone, notes = read_ola_config(values, "config.json", shapes=shapes, vision_heads=16)
    assert alone == OlaConfig()
    assert [note.partition(":")[0] for note in notes] == ["Whisper", "BEATs"]
