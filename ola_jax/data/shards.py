"""Prepared shards: records with their media, as ArrayRecord files in the format of TFDS."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ola_jax.data.media import MediaBytes
from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.rewriting import map_media
from ola_jax.errors import OlaError, first_line, require

OPTIONS = "group_size:1,uncompressed"  # every example is found by itself, and media are compressed already
FINISHED = ".finished"  # what is left of it
UNFINISHED = ".unfinished"  # folder within that of shards, until all of them are written
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


class ShardWriter:
    """Writes one file of examples; `close`, or the end of the context, completes it."""

    def __init__(self, path: pathlib.Path) -> None:
        from array_record.python import array_record_module
        from tensorflow_datasets.core import example_serializer

        self._features = features()
        self._serializer = example_serializer.ExampleSerializer(self._features.get_serialized_info())
        self._writer = array_record_module.ArrayRecordWriter(str(path), OPTIONS)
        self._open = True

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(self, example: dict[str, Any]) -> bytes:
        """The bytes of an example, which are the same for the same example."""
        encoded = self._features.encode_example(example)
        data: bytes = self._serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        return data

    def write(self, data: bytes) -> None:
        """Writes the bytes of an example. Raises OSError if they cannot be written."""
        try:
            self._writer.write(data)
        except (RuntimeError, ValueError) as error:
            raise OSError(None, first_line(error)) from error

    def close(self) -> None:
        """Writes what is still in memory. Raises OSError if it cannot be written."""
        if self._open:
            self._open = False
            try:
                self._writer.close()
            except (RuntimeError, ValueError) as error:
                raise OSError(None, first_line(error)) from error


def shard_name(name: str, split: str, number: int, shards: int) -> str:
    """The name of a file of examples, as TFDS has it."""
    return f"{name}-{split}.array_record-{number:05d}-of-{shards:05d}"


def write_info(folder: pathlib.Path, name: str, split: str, lengths: Sequence[int], size: int) -> None:
    """Writes `features.json` and `dataset_info.json`, which make a data set of TFDS of a folder of shards.

    `lengths` are the numbers of examples of the shards, `size` is in bytes.
    """
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        dataset_name=name,
        data_dir=folder,
        split=split,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    info = tfds.core.SplitInfo(
        name=split, shard_lengths=list(lengths), num_bytes=size, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features(),
        split_infos=[info],
        filename_template=template,
        version="1.0.0",
        description="Records of Ola with their media, prepared by ola_jax.",
        check_data=False,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ShardTable:
    """The examples of a split, or of a part of it such as `train[:10%]`."""

    folder: str
    split: str
    length: int

    @classmethod
    def open(cls, folder: str, split: str) -> "ShardTable":
        """Opens a folder that `ola data prepare` wrote. Raises OlaError for other folders and splits."""
        if (pathlib.Path(folder) / UNFINISHED).exists():
            raise OlaError(f"{folder}: is not complete; run the same `ola data prepare` again")
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
    found = builder.info.features
    if not isinstance(found, type(expected)) or set(found) != set(expected):
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
