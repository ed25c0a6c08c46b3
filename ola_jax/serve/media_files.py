"""The media of a request as files of a private folder, under names of the server's own."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

from ola_jax.errors import OlaError
from ola_jax.serve.api_error import invalid
from ola_jax.serve.data_urls import is_data_url, read_base64, read_data_url
from ola_jax.serve.limits import Limits
from ola_jax.serve.local_files import is_file_url, read_local_file
from ola_jax.serve.messages import MediaPart
from ola_jax.serve.network import Fetcher
from ola_jax.serve.sniffing import sniff


@dataclasses.dataclass(frozen=True)
class StoredMedia:
    """One of the media of a request, in a file of its own."""

    part: MediaPart
    path: pathlib.Path


@contextlib.contextmanager
def private_folder() -> Iterator[pathlib.Path]:
    """A folder for one request, removed with all that is in it at the end."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="ola-serve-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OlaError("no folder for temporary files") from error
    with folder as name:
        yield pathlib.Path(name)


def write_media(
    parts: Sequence[MediaPart],
    folder: pathlib.Path,
    *,
    limits: Limits,
    fetcher: Fetcher,
    local: pathlib.Path | None,
    hold: Callable[[int], None],
) -> tuple[StoredMedia, ...]:
    """Write the bytes of all parts. Raises ApiError for what cannot be had, or is no media of the kind.

    `hold` is called with the number of bytes that did not come with the request.
    """
    files = []
    for number, part in enumerate(parts):
        data = _read(part, limits.media_bytes, fetcher, local)
        if not (part.encoded or is_data_url(part.source)):
            hold(len(data))
        if part.kind not in sniff(data):
            raise invalid(f"the bytes are no {part.kind} in a format that is read here", part.where)
        path = folder / f"{part.kind}-{number}"
        path.write_bytes(data)
        files.append(StoredMedia(part, path))
    return tuple(files)


def _read(part: MediaPart, most: int, fetcher: Fetcher, local: pathlib.Path | None) -> bytes:
    if is_data_url(part.source):
        return read_data_url(part.source, part.where, most)
    if part.encoded:
        return read_base64(part.source, part.where, most)
    if is_file_url(part.source):
        return read_local_file(part.source, local, part.where, most)
    return fetcher.fetch(part.source, part.where, most)
