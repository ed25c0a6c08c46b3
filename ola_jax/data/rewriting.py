"""Rewriting the references to media in records: other folders, and frames in the colours of the original."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ola_jax.data.record_files import JsonRecord, Malformed
from ola_jax.data.tables import RecordTable

MEDIA_KEYS = ("image", "video", "audio", "audio_q")
# Parts of the names of patch files whose frames the original decodes by OpenCV, which returns BGR, and trains
# on without swapping the channels.
BGR_PATCHES = ("sharegpt4o", "ShareGPT4Video/new_patch", "cinepile", "nextqa", "perceptiontest")


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """A table whose paths of media begin otherwise, and whose frames are BGR where the original's are."""

    table: RecordTable
    rewrite: tuple[tuple[str, str], ...]  # beginnings and what replaces them; the first that matches
    bgr: bool = False

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int, /) -> JsonRecord | Malformed:
        record = self.table[index]
        if isinstance(record, Malformed):
            return record
        return map_media(record, self._rewrite)

    def _rewrite(self, ref: Any) -> Any:
        if isinstance(ref, str):
            return self._path(ref)
        if not isinstance(ref, dict):
            return ref
        new = dict(ref)
        for key in ("patch", "img_path"):
            if isinstance(path := ref.get(key), str):
                new[key] = self._path(path)
            elif isinstance(path, list):
                new[key] = [self._path(item) if isinstance(item, str) else item for item in path]
        if self.bgr and isinstance(patch := ref.get("patch"), str) and any(p in patch for p in BGR_PATCHES):
            new["bgr"] = True
        return new

    def _path(self, path: str) -> str:
        for old, new in self.rewrite:
            if path.startswith(old):
                return new + path[len(old) :]
        return path


def map_media(record: JsonRecord, function: Callable[[Any], Any]) -> JsonRecord:
    """The record with the function applied to each reference to media, of lists to each element."""
    return {
        key: value
        if key not in MEDIA_KEYS or value is None
        else ([function(ref) for ref in value] if isinstance(value, list) else function(value))
        for key, value in record.items()
    }
