"""Prepared shards: records with their media, as ArrayRecord files in the format of TFDS."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ola_jax.data.media import MediaBytes
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.rewriting import map_media
from ola_jax.errors import OlaError, first_line, require

_STORED = "stored"  # key of an object that stands for media, whose number it gives


def features() -> Any:
    """The features of an example: the record as JSON, and its media as bytes."""
    require("data", "tensorflow_datasets", "array_record")
    import tensorflow_datasets as tfds  # only where it is needed: it is a large library

    data = tfds.features.Tensor(shape=(), dtype=np.object_)
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "record": tfds.features.Text(),
            "media": tfds.features.Sequence(data),
            "media_names": tfds.features.Sequence(tfds.features.Text()),
        }
    )


def to_example(record: JsonRecord) -> dict[str, Any]:
    """The example of a record whose media are all in memory."""
    items: list[MediaBytes] = []

    def number(ref: Any) -> Any:
        if not isinstance(ref, MediaBytes):
            raise OlaError(f"media that are not in memory: {ref!r}")
        items.append(ref)
        kept = {_STORED: len(items) - 1, "is_file": ref.is_file, "bgr": ref.bgr}
        return {key: value for key, value in kept.items() if value is not False}

    text = json.dumps(map_media(record, number), ensure_ascii=False)
    return {
        "id": str(record.get("id", "")),
        "record": text,
        "media": [item.data for item in items],
        "media_names": [item.name for item in items],
    }


def from_example(example: dict[str, Any]) -> JsonRecord:
    """The record of an example as TFDS decodes it."""
    media, names = example["media"], example["media_names"]

    def restore(ref: Any) -> Any:
        number = ref[_STORED]
        name = names[number].decode("utf-8", "replace")
        return MediaBytes(name, media[number], ref.get("is_file", False), ref.get("bgr", False))

    return map_media(json.loads(example["record"]), restore)


@dataclasses.dataclass(frozen=True, eq=False)
class ShardTable:
    """The examples of a split, or of a part of it such as `train[:10%]`."""

    folder: str
    split: str
    length: int

    @classmethod
    def open(cls, folder: str, split: str) -> "ShardTable":
        """Opens a folder that `ola data prepare` wrote. Raises OlaError for other folders and splits."""
        return cls(folder, split, len(_data_source(folder, split)))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        try:
            return from_example(self._source[index])
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            return Malformed(
                f"{self.folder}: example {index} of {self.split!r} cannot be read ({first_line(error)})"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "split": self.split, "length": self.length}

    @functools.cached_property
    def _source(self) -> Sequence[dict[str, Any]]:
        return _data_source(self.folder, self.split)


def _data_source(folder: str, split: str) -> Any:
    expected = features()
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS's own kinds
        raise OlaError(f"{folder}: cannot be read as a data set of TFDS ({first_line(error)})") from error
    if not isinstance(builder.info.features, dict) or builder.info.features.keys() != expected.keys():
        raise OlaError(
            f"{folder}: a data set of TFDS with other features than `ola data prepare` writes "
            f"({', '.join(expected)}); give its records as JSON, and prepare them"
        )
    try:
        return builder.as_data_source(split=split)
    except Exception as error:
        known = ", ".join(builder.info.splits)
        raise OlaError(
            f"{folder}: split {split!r} cannot be read ({first_line(error)}); it has {known}"
        ) from error
