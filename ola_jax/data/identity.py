"""Which records a source has: a digest by which an index belongs to them, and the path of that index."""

import glob
import hashlib
import os
import pathlib

from ola_jax.data.index import SUFFIX, digest_file, index_path
from ola_jax.errors import OlaError

_INFO = ("dataset_info.json", "features.json")  # of prepared shards


def source_index_path(records: str, split: str = "train") -> pathlib.Path:
    """The path of the index of a source: in the folder of prepared shards, and otherwise beside the records.

    That of a pattern is beside its files, with `_` for the characters that are not plain.
    """
    folder = pathlib.Path(records)
    if (folder / _INFO[0]).is_file():
        return folder / f"{split}{SUFFIX}"
    if not folder.exists() and glob.has_magic(records):
        plain = "".join(c if c.isalnum() or c in "-._" else "_" for c in folder.name)
        return folder.parent / f"{plain}{SUFFIX}"
    return index_path(records)


def digest_records(records: str, split: str = "train") -> str:
    """A digest of the records of a source. Raises OlaError if they cannot be read.

    That of a JSON file is of its content; of folders and patterns, of names and sizes of their files, as the
    media in them may be terabytes.
    """
    place = pathlib.Path(records)
    if place.is_file() and place.suffix not in (".tar", ".parquet"):
        return digest_file(place)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if _is_data(file.name))
    else:
        files = [pathlib.Path(file) for file in sorted(glob.glob(records))] or [place]
    digest = hashlib.sha256(split.encode())
    try:
        for file in files:
            digest.update(f"{file.name}\0{os.path.getsize(file)}\0".encode(errors="surrogateescape"))
            if file.name in _INFO:
                digest.update(file.read_bytes())
    except OSError as error:
        raise OlaError(f"{records}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _is_data(name: str) -> bool:
    return name in _INFO or name.endswith((".parquet", ".tar")) or ".array_record-" in name
