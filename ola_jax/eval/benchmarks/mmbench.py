"""MMBench 1.1: every question is asked with its options rolled, and right if all of its copies are."""

import pathlib
from typing import Any

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import AUTHOR, PAPER, Benchmark, Quirks, Reference, Source
from ola_jax.eval.benchmarks.common import (
    LETTER_DIRECTLY,
    REFERENCE_LENGTH,
    inferred,
    lettered,
    ola_choice,
    row_images,
    row_options,
    vlmevalkit_choice,
)
from ola_jax.eval.counting import circular
from ola_jax.eval.items import EmbeddedMedia, Item, Prompt, after_media
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import find, read_parquet, read_tsv

COPY = 10**6  # the k-th copy of a question has its index plus k times this
HINT = "There are several options:"


def read(folder: pathlib.Path) -> Source:
    """Reads the TSV, or parquet files with its columns."""
    files = find(
        folder,
        *("MMBench_DEV_EN_V11.tsv", "MMBench_TEST_EN_V11.tsv", "MMBench*.tsv"),
        *("en/dev-*.parquet", "*.parquet"),  # lmms-lab/MMBench has other languages beside it
    )
    columns = ["index", "question", "A", "B"]
    if files[0].suffix == ".parquet":
        rows: list[dict[str, Any]] = [
            {k: v if k == "image" else str(v) for k, v in row.items() if v not in (None, "", "nan")}
            for row in read_parquet(files, columns, ["image"])
        ]
        images: list[tuple[EmbeddedMedia, ...]] = [(row["image"],) for row in rows]
    else:
        files = files[:1]
        table = read_tsv(files[0], columns)
        rows, images = [dict(row) for row in table], row_images(table, files[0])
    try:
        numbers = [int(float(row["index"])) for row in rows]
    except ValueError as error:
        raise OlaError(f"{files[0]}: an index is not a number ({error})") from error
    items = [
        Item(
            str(number),
            row["question"],
            (row["answer"],) if "answer" in row else (),
            row_options(row),
            hint=row.get("hint", ""),
            images=image,
            category=row.get("category", ""),
            groups={
                "circular": str(number % COPY),
                "image": _image_group(row, number),
                "l2": row.get("l2-category", row.get("L2-category", "")),
            },
        )
        for number, row, image in zip(numbers, rows, images, strict=True)
    ]
    return Source(items, files)


def _image_group(row: dict[str, Any], number: int) -> str:
    """The row that has the image, for rows that refer to it; the rolled copies of a question share it."""
    image = row.get("image")
    if isinstance(image, str) and len(image) <= REFERENCE_LENGTH:
        return str(int(float(image)) % COPY) if image.replace(".", "").isdigit() else image
    return str(number % COPY)


def _lmms(item: Item) -> Prompt:
    hint = f"{item.hint} " if item.hint else ""
    return after_media(f"{hint}{item.question} {HINT}\n{lettered(item)}\n{LETTER_DIRECTLY}")


MMBENCH = Benchmark(
    name="mmbench_v11",
    title="MMBench 1.1, English, circular",
    modality="image",
    expects="MMBench_DEV_EN_V11.tsv (the answers of MMBench_TEST_EN_V11.tsv are not published)",
    read=read,
    wordings={"vlmevalkit": vlmevalkit_choice, "ola": ola_choice, "lmms_eval": _lmms},
    rules={"vlmevalkit": inferred, "ola": inferred, "lmms_eval": inferred},
    measures=circular,
    max_new_tokens=512,
    references=(Reference(PAPER, 84.3), Reference(AUTHOR, 84.23)),
    known_md5={
        "MMBench_DEV_EN_V11.tsv": "30c05be8f2f347a50be25aa067248184",
        "MMBench_TEST_EN_V11.tsv": "26f0f15381a21720255091d3e0316ce6",
    },
    judge=match_option,
    judged="unreadable",
    paper_quirks=Quirks(enlarge_small_images=True),
)
