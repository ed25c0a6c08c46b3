"""Checkpoints of the original, of Hugging Face and of PEFT: read in, written, compared."""

from ola_jax.errors import require

require("convert", "huggingface_hub", "tokenizers")
