"""The processor and the generation config of a run."""

import json
import pathlib
from typing import Any

from ola_jax import checkpoint
from ola_jax.data.processor import Processor
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.errors import OlaError
from ola_jax.training.config import TrainConfig


def load_processor(config: TrainConfig) -> tuple[Processor, dict[str, Any]]:
    """The processor for training, and the generation config that goes into every checkpoint."""
    tokenizer = load_tokenizer(tokenizer_folder(config))
    processor = Processor(config.model, config.processor, tokenizer, preset="train")
    if config.generation:
        return processor, json.loads(pathlib.Path(config.generation).read_text())
    if config.init_from:
        return processor, checkpoint.load_configs(config.init_from)[2]
    raise OlaError("generation is not set and there is no init_from to take it from")


def tokenizer_folder(config: TrainConfig) -> pathlib.Path:
    """The folder of the run's tokenizer: its own, or that of `init_from`."""
    if config.tokenizer:
        return pathlib.Path(config.tokenizer)
    if config.init_from:
        return pathlib.Path(config.init_from) / "tokenizer"
    raise OlaError("tokenizer is not set and there is no init_from to take it from")
