"""From records on disk to batches: decoding, tokenizing, packing."""

import importlib
from typing import Any

from ola_jax.errors import require

require("train", "PIL", "av", "grain", "numba", "simplejpeg", "soundfile", "soxr", "tokenizers")

# Imported when first used: a process that decodes media starts without JAX and Grain.
_MODULES = {
    "ImagePatches": "sample",
    "Processor": "processor",
    "RecordId": "pipeline",
    "Sample": "sample",
    "Source": "sources",
    "TrainBatch": "pipeline",
    "TrainIterator": "pipeline",
    "make_train_iterator": "pipeline",
    "prompt_record": "records",
    "read_records": "records",
}

__all__ = [
    "ImagePatches",
    "Processor",
    "RecordId",
    "Sample",
    "Source",
    "TrainBatch",
    "TrainIterator",
    "make_train_iterator",
    "prompt_record",
    "read_records",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
