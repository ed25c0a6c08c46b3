"""Processors with the sizes of the visible goldens."""

import functools

from ola_jax.config import BeatsConfig, OlaConfig, OryxViTConfig, ProcessorConfig, Qwen2Config, WhisperConfig
from ola_jax.data import Processor
from ola_jax.data.tokenizer import load_tokenizer
from tests.golden import VISIBLE, index


@functools.cache
def golden_config() -> OlaConfig:
    dims = index()["dims"]
    vit, beats = dims["vit"], dims["beats"]
    return OlaConfig(
        Qwen2Config(index()["tokenizer"]["config_vocab_size"], dims["llm"]["hidden_size"], num_layers=1),
        OryxViTConfig(vit["width"], vit["layers"], vit["heads"]),
        WhisperConfig(
            dims["whisper"]["n_mels"], dims["whisper"]["n_audio_ctx"], hidden_size=16, num_layers=1
        ),
        BeatsConfig(embed_dim=beats["embed_dim"], num_layers=1),
    )


@functools.cache
def golden_processor(preset: str = "train", **changes: int) -> Processor:
    tokenizer = load_tokenizer(VISIBLE / "hf")
    return Processor(golden_config(), ProcessorConfig(**changes), tokenizer, preset)
