"""From records on disk to batches: decoding, tokenising, packing."""

from ola_jax.data.processor import Processor
from ola_jax.data.records import prompt_record, read_records
from ola_jax.data.sample import ImagePatches, Sample

__all__ = ["ImagePatches", "Processor", "Sample", "prompt_record", "read_records"]
