"""Free space on the disk, checked before anything is written."""

import pathlib
import shutil

from ola_jax.errors import OlaError

RESERVE = 64 * 2**20  # bytes, for all but the weights: tokenizer, indices, the file system's own


def check_space(directory: pathlib.Path, size: int) -> None:
    """Raises OlaError unless `size` bytes, and a reserve, are free where `directory` is to be written."""
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    free, needed = shutil.disk_usage(existing).free, size + RESERVE
    if free < needed:
        raise OlaError(
            f"{directory}: not enough space: {free / 1e9:.1f} GB free on this disk, {needed / 1e9:.1f} GB "
            "needed; make room or choose another disk"
        )
