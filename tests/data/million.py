"""Many made-up records, whose sizes repeat: all are indexed by measuring the first of them."""

import json

from PIL import Image

from ola_jax.data.index import Index, concatenate
from tests.data.made_up import conversation

PERIOD = 23_000  # records after which sizes and failures repeat


def write_million(folder, count):
    """Writes `count` records, one in five with an image, one in a thousand bad; returns their path."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "a.png")
    path = folder / "records.jsonl"
    with path.open("w") as file:
        for number in range(count):
            record = conversation("Which number?", "yes " * (number % 23 + 1), id=number)
            if number % 5 == 0:
                record |= {"image": "a.png"}
                record["conversations"][0]["value"] = "<image>\nWhat?"
            if number % 1000 == 7:
                record["conversations"] = []
            file.write(json.dumps(record) + "\n")
    return str(path)


def repeat_index(index: Index, count: int) -> Index:
    """The index of `count` records from that of the first ones."""
    return concatenate([index] * -(-count // len(index)))[:count]
