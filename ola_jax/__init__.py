"""Ola, the omni-modal language model, in JAX and Flax."""

import importlib
import importlib.metadata
from typing import Any

# Imported when first used: the model runs on a machine without libraries for media, and a process that
# decodes media starts without JAX.
_MODULES = {
    "Assistant": "ola_jax.generate.assistant",
    "Budget": "ola_jax.batch",
    "Ola": "ola_jax.models.ola",
    "OlaBatch": "ola_jax.batch",
    "OlaConfig": "ola_jax.config",
    "OlaError": "ola_jax.errors",
    "Processor": "ola_jax.data.processor",
    "load": "ola_jax.checkpoint",
}

__all__ = ["Assistant", "Budget", "Ola", "OlaBatch", "OlaConfig", "OlaError", "Processor", "load"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        return importlib.metadata.version("ola_jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
