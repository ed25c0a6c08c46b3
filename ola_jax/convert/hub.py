"""Names on the Hugging Face hub, such as THUdyh/Ola-7b, where a directory is expected."""

import pathlib
import re

import huggingface_hub

from ola_jax.errors import OlaError, describe

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")  # no pickles: what is needed of them is named by hand


def fetch(source: str) -> pathlib.Path:
    """The path, if there is something; else, if it can be a hub id, where its files have been downloaded to.

    Raises OlaError with the reason if the hub does not give them.
    """
    path = pathlib.Path(source)
    if path.exists() or not HUB_ID.fullmatch(source):
        return path
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # no network, no such name, no access, no space: many kinds from many layers
        raise OlaError(
            f"{source}: no such directory here, and the Hugging Face hub did not give it "
            f"({describe(error)}); download it where there is network, and give its "
            "directory"
        ) from error
