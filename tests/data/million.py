"""Many made-up records. Their sizes may repeat: all are then indexed by measuring the first of them."""

import io
import json
import pathlib

from PIL import Image

from ola_jax.data.index import Index, concatenate
from tests.data.made_up import conversation

PERIOD = 23_000  # records after which sizes and failures repeat


def write_million(folder: pathlib.Path, count: int, *, distinct: bool = False) -> str:
    """Writes `count` records, one in five with an image, one in a thousand bad; returns their path.

    If they are `distinct`, each has a text and an image of its own, and its size does not repeat.
    """
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "a.png")
    path = folder / "records.jsonl"
    end = 0
    with path.open("w") as file, (folder / "images").open("wb") as images:
        for number in range(count):
            words = number * 7919 % 9973 % 29 if distinct else number % 23
            answer = f"{number} " * distinct + "yes " * (words + 1)
            record = conversation("Which number?", answer, id=number)
            if number % 5 == 0:
                record |= {"image": "a.png"}
                record["conversations"][0]["value"] = "<image>\nWhat?"
                if distinct:
                    data = _png(number)
                    images.write(data)
                    record |= {"image": {"patch": "images", "start_num": end, "size": len(data)}}
                    end += len(data)
            if number % 1000 == 7:
                record["conversations"] = []
            file.write(json.dumps(record) + "\n")
    return str(path)


def repeat_index(index: Index, count: int) -> Index:
    """The index of `count` records from that of the first ones."""
    return concatenate([index] * -(-count // len(index)))[:count]


def _png(number: int) -> bytes:
    file = io.BytesIO()
    size = 8 + number // 5 % 13, 8 + number // 65 % 11
    Image.new("RGB", size, (number % 256, number // 256 % 256, number // 65_536)).save(file, "PNG")
    return file.getvalue()
