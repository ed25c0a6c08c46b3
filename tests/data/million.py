"""A million made-up records, in a file whose media are one small image."""

import json

from PIL import Image

from tests.data.made_up import conversation


def write_million(folder, count):
    """Writes `count` records, one in five with an image, one in a thousand bad; returns their path."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "a.png")
    path = folder / "records.jsonl"
    with path.open("w") as file:
        for number in range(count):
            record = conversation(f"Number {number}?", "yes " * (number % 23 + 1), id=number)
            if number % 5 == 0:
                record |= {"image": "a.png"}
                record["conversations"][0]["value"] = "<image>\nWhat?"
            if number % 1000 == 7:
                record["conversations"] = []
            file.write(json.dumps(record) + "\n")
    return str(path)
