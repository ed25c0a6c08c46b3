"""Checkpoints of the original, of Hugging Face and of PEFT: reading, writing, comparing."""

from ola_jax.errors import require

require("convert", "huggingface_hub", "tokenizers")
