"""A checkpoint of the small model."""

import pathlib

import pytest

from ola_jax import checkpoint
from tests import golden
from tests.generate import small


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("small") / "model"
    processor = small.processor().processor_config
    checkpoint.save(
        directory,
        config=small.CONFIG,
        processor_config=processor,
        params=small.params(),
        tokenizer_dir=golden.VISIBLE / "hf",
        generation_config={"do_sample": False},
    )
    return directory
