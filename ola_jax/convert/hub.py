"""Names on the Hugging Face hub, such as THUdyh/Ola-7b, given instead of a directory."""

import pathlib
import re

import huggingface_hub

from ola_jax.errors import OlaError, describe

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# No pickles: those that are needed have an option each.
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")


def fetch(source: str) -> pathlib.Path:
    """The path if it exists or cannot be a hub id; else the directory of the files downloaded from the hub.

    Raises OlaError with the reason if the download fails.
    """
    path = pathlib.Path(source)
    if path.exists() or not HUB_ID.fullmatch(source):
        return path
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # no network, no such name, no access, no space: many kinds from many layers
        raise OlaError(
            f"{source}: no such directory, and the download from the Hugging Face hub failed "
            f"({describe(error)}); download it where there is a network, and give its directory"
        ) from error
