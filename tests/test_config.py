import dataclasses
import json

import pytest

from ola_jax.config import (
    OlaConfig,
    ProcessorConfig,
    Qwen2Config,
    architecture,
    differences,
    from_dict,
    to_dict,
)
from ola_jax.errors import OlaError


def test_execution_settings_do_not_make_another_model():
    model = OlaConfig(dtype="bfloat16", remat="full", attention="xla", pooling="pallas")
    assert architecture(model) == OlaConfig()
    other = OlaConfig(llm=Qwen2Config(rope_theta=1e4), dtype="bfloat16")
    assert architecture(other) == OlaConfig(llm=Qwen2Config(rope_theta=1e4))


def test_differences_name_the_path_of_each_field():
    before = OlaConfig()
    after = OlaConfig(llm=Qwen2Config(rope_theta=1e4), beats=None, speech_stack=5)
    found = differences(before, after)
    assert found["llm.rope_theta"] == (1e6, 1e4)
    assert found["speech_stack"] == (10, 5)
    assert found["beats"] == (to_dict(before)["beats"], None)
    assert differences(before, to_dict(before)) == {}
    assert differences({"a": [1, 2]}, {"a": (1, 2), "b": 3}) == {"b": (None, 3)}
    assert differences({"a": [1]}, {"a": [1, 2]}) == {"a": ([1], [1, 2])}


def test_a_config_survives_json():
    for config in (ProcessorConfig(), dataclasses.replace(OlaConfig(), vision=None)):
        assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(OlaError, match=r"config\.media\.audio_rates: expected 2 values"):
        from_dict(ProcessorConfig, {"media": {"audio_rates": [1]}})


def test_presets_are_the_released_models() -> None:
    complete, images = OlaConfig.ola_7b(), OlaConfig.ola_image_7b()
    assert complete == OlaConfig()
    assert (images.whisper, images.beats, images.chunk_tokens) == (None, None, 0)
    assert dataclasses.replace(images, whisper=complete.whisper, beats=complete.beats) == complete
    assert OlaConfig.ola_7b().vision.patch_bytes == 768


def test_the_config_of_a_checkpoint_is_read_without_fields_of_later_versions() -> None:
    values = to_dict(OlaConfig.tiny())
    del values["pooling"], values["llm"]["rope_scaling"], values["vision"]["layer_norm_eps"]
    assert from_dict(OlaConfig, values) == OlaConfig.tiny()
