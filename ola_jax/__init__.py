"""Ola, the omni-modal language model, in JAX and Flax."""

from typing import Any

from ola_jax.batch import Budget, OlaBatch
from ola_jax.checkpoint import load
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola

__all__ = ["Budget", "Ola", "OlaBatch", "OlaConfig", "OlaError", "Processor", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that the model runs on a machine that has no libraries for media.
    if name == "Processor":
        from ola_jax.data.processor import Processor

        return Processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
