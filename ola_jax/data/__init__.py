"""From records on disk to batches: decoding, tokenising, packing."""

from ola_jax.data.pipeline import RecordId, Source, TrainBatch, TrainIterator, make_train_iterator
from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record, read_records
from ola_jax.data.sample import ImagePatches, Sample

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
