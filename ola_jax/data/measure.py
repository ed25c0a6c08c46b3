"""Measuring records: the sizes that the samples made of them have in a row."""

import dataclasses
import hashlib
from typing import Any

from ola_jax.data.failures import failure_kind
from ola_jax.data.headers import HeaderDecode
from ola_jax.data.index import Failure, RecordKind, RecordSize
from ola_jax.data.isolation import ClosedError
from ola_jax.data.processor import Processor
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.records import message_prefix
from ola_jax.data.rows import needs
from ola_jax.data.sample import Sample
from ola_jax.errors import OlaError, describe


def measure(
    processor: Processor, record: object, root: str | None = None, *, marks_are_text: bool = False
) -> RecordSize:
    """The size of the sample that `processor.sample(record, training=True)` makes.

    Media are decoded, and it raises the same OlaErrors.
    """
    sample = processor.sample(record, root, training=True, marks_are_text=marks_are_text)
    return sample_size(sample, record)


def by_headers(processor: Processor) -> Processor:
    """A processor whose samples have the right sizes, from the headers of media where those suffice."""
    return dataclasses.replace(processor, decode=HeaderDecode(processor.decode))


def measure_or_fail(
    processor: Processor,
    record: JsonRecord | Malformed,
    root: str | None = None,
    *,
    marks_are_text: bool = False,
) -> RecordSize | Failure:
    """The size of a record, or the reason why it cannot be used."""
    try:
        return measure(processor, record, root, marks_are_text=marks_are_text)
    except ClosedError:  # nothing is wrong with the record
        raise
    except Exception as error:
        return describe_failure(record, error)


def describe_failure(record: object, error: Exception) -> Failure:
    """The failure of a record whose sample could not be made because of this error."""
    if isinstance(record, Malformed):
        return Failure("malformed record", record.reason)
    if isinstance(error, OlaError):
        return Failure(failure_kind(error), str(error), record_kind(record))
    reason = f"{message_prefix(record)}{describe(error)}"  # of a user's own processor
    return Failure("malformed record", reason, record_kind(record))


def sample_size(sample: Sample, record: object) -> RecordSize:
    """The size of the sample that was made of this record."""
    return dataclasses.replace(needs(sample), kind=record_kind(record, sample))


def record_kind(record: object, sample: Sample | None = None) -> RecordKind:
    """The kind of a record, by its keys; a video with its own sound track is known by its sample."""
    if not isinstance(record, dict):
        return "unknown"
    if record.get("audio_q") is not None:
        return "spoken question"
    has_audio = record.get("audio") is not None
    if record.get("video") is not None:
        return "video with audio" if has_audio or (sample is not None and len(sample.audio)) else "video"
    if record.get("image"):
        return "image with audio" if has_audio else "image"
    return "audio" if has_audio else "text"


def describe_settings(processor: Processor, *, marks_are_text: bool = False) -> dict[str, Any]:
    """The settings of a processor that decide the sizes of its samples, as JSON values."""
    config, vision = processor.config, processor.config.vision
    media = dataclasses.asdict(processor.processor_config.media)
    del media["decode_seconds"]  # sizes do not depend on it
    return {
        "max_length": processor.processor_config.max_length,
        "system_prompt": processor.processor_config.system_prompt,
        "tokenizer": hashlib.sha256(processor.tokenizer.to_str().encode()).hexdigest(),
        "marks_are_text": marks_are_text,
        "patch_size": vision.patch_size if vision else 0,
        "chunk_samples": config.chunk_samples,
        "chunk_tokens": config.chunk_tokens,
        # Left out where it is 2, as in an index that was made before it could be anything else.
        **({"token_side": config.token_side} if config.token_side != 2 else {}),
        **{f"pixels.{name}": value for name, value in dataclasses.asdict(processor.limits).items()},
        **{f"media.{name}": value for name, value in media.items()},
    }
