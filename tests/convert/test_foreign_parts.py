"""Models that the original's format cannot hold are refused before anything is written."""

import dataclasses
import pathlib

import numpy as np
import pytest

from ola_jax import checkpoint
from ola_jax.config import OlaConfig, ProcessorConfig
from ola_jax.convert.export_config import find_foreign_parts
from ola_jax.convert.export_job import prepare_export
from ola_jax.errors import OlaError
from tests import golden, tiny


def save(folder: pathlib.Path, config: OlaConfig) -> pathlib.Path:
    checkpoint.save(
        folder / "model",
        config=config,
        processor_config=ProcessorConfig(),
        params={"llm": {"norm": {"scale": np.zeros(4, np.float32)}}},
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config={},
    )
    return folder / "model"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"downsampling": "mean"}, "downsampling is 'mean', and the original has 'local_global' only"),
        ({"downsampling": "conv"}, "downsampling is 'conv'"),
        ({"downsampling": "none"}, "downsampling is 'none'"),
        ({"whisper": None}, "BEATs is its only audio encoder, and the original always has Whisper"),
    ],
)
def test_it_is_not_exported(changes: dict, reason: str, tmp_path: pathlib.Path) -> None:
    model = save(tmp_path, dataclasses.replace(tiny.CONFIG, **changes))
    assert checkpoint.load_configs(model)[0] == dataclasses.replace(tiny.CONFIG, **changes)
    with pytest.raises(OlaError, match=f"^{model}: cannot be exported: {reason}"):
        prepare_export(model)


def test_the_original_and_models_without_images_or_audio_have_no_foreign_parts() -> None:
    image_only = OlaConfig.ola_image_7b()
    text_only = dataclasses.replace(image_only, vision=None, downsampling="none")  # of nothing
    for config in (OlaConfig(), image_only, text_only, dataclasses.replace(OlaConfig(), beats=None)):
        assert find_foreign_parts(config) == []
