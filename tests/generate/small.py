"""A model of text, small enough to answer within seconds, and prompts for it."""

import functools

import jax

from ola_jax.batch import OlaBatch
from ola_jax.config import OlaConfig, ProcessorConfig, Qwen2Config
from ola_jax.data.processor import Processor
from ola_jax.data.tokenizer import load_tokenizer
from ola_jax.models.ola import Ola, init_params
from tests import golden

CONFIG = OlaConfig(
    llm=Qwen2Config(
        vocab_size=768, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, intermediate_size=64
    ),
    vision=None,
    whisper=None,
    beats=None,
)
MODEL = Ola(CONFIG)


@functools.cache
def params() -> dict:
    """Random parameters, large enough that answers differ from token to token."""
    return jax.tree.map(lambda x: 5 * x, init_params(CONFIG, seed=0))


@functools.cache
def processor(max_length: int = 16_384) -> Processor:
    settings = ProcessorConfig(system_prompt="", max_length=max_length)
    return Processor(CONFIG, settings, load_tokenizer(golden.VISIBLE / "hf"), preset="infer")


def prompts(*texts: str) -> OlaBatch:
    """A batch of one row for each text."""
    return processor()([{"conversations": [{"from": "human", "value": text}]} for text in texts])
