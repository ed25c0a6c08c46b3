"""MathVista, testmini: a judge extracts the value from an answer, unless the answer is the value."""

import pathlib
from typing import Any

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import AUTHOR, Benchmark, Quirks, Reference, Source
from ola_jax.eval.benchmarks.common import constant, letter_of, lettered, row_images, text_list
from ola_jax.eval.counting import accuracy
from ola_jax.eval.items import Item, Prompt, after_media
from ola_jax.eval.judging import extract_value
from ola_jax.eval.published import find, read_parquet, read_tsv
from ola_jax.eval.rules import mathvista

DECIMALS = {1: "one decimal place", 2: "two decimal places"}


def read(folder: pathlib.Path) -> Source:
    """Reads MathVista_MINI.tsv, or the testmini parquet files of AI4Math/MathVista."""
    files = find(folder, "MathVista_MINI.tsv", "**/testmini-*.parquet", "**/*.parquet")
    if files[0].suffix == ".parquet":
        columns = ["pid", "question", "answer", "question_type", "answer_type", "choices"]
        rows = read_parquet(files, columns, ["decoded_image"])
        return Source([_item(row, str(row["pid"]), (row["decoded_image"],)) for row in rows], files)
    columns = ["index", "question", "answer", "question_type", "answer_type", "task"]
    table = read_tsv(files[0], columns)
    items = [
        _item(row, row["index"], images)
        for row, images in zip(table, row_images(table, files[0]), strict=True)
    ]
    return Source(items, files[:1])


def _item(row: dict[str, Any], name: str, images: tuple) -> Item:
    where = f"question {name}"
    options = (
        tuple(text_list(row.get("choices") or [], where)) if row["question_type"] == "multi_choice" else ()
    )
    answer = row["answer"]
    if options:
        answer = row.get("answer_option") or letter_of(str(answer), options, where)
    if row["answer_type"] not in ("text", "integer", "float", "list"):
        raise OlaError(f"{where}: unknown answer_type {row['answer_type']!r}")
    metadata = row.get("metadata") or {}
    return Item(
        name,
        row["question"],
        (str(answer),),
        options,
        images=images,
        category=row.get("task") or metadata.get("task", ""),
        fields={
            "answer_type": row["answer_type"],
            "precision": row.get("precision"),
            "unit": row.get("unit") or "",
            "query": row.get("query", row["question"]),
        },
    )


def _lmms(item: Item) -> Prompt:
    """lmms-eval, `mathvista_testmini_format`."""
    kind, precision = item.fields["answer_type"], item.fields.get("precision")
    hint = "Answer with the option's letter from the given choices directly."
    if not item.options:
        places = DECIMALS.get(int(float(precision or 0)), "one decimal place")
        hint = {
            "integer": "Answer the question using a single integer number.",
            "float": f"Answer the question using a single floating-point number with {places}.",
            "list": "Answer the question using a Python list.",
        }[kind]
    unit = f" (Unit: {item.fields['unit']})" if item.fields["unit"] else ""
    lines = [f"{item.question}{unit}", lettered(item), hint]
    return after_media("\n".join(line for line in lines if line))


MATHVISTA = Benchmark(
    name="mathvista_mini",
    title="MathVista, testmini",
    modality="image",
    expects="MathVista_MINI.tsv, or the testmini parquet files of AI4Math/MathVista",
    read=read,
    wordings={"vlmevalkit": constant(), "ola": constant(), "lmms_eval": _lmms},
    rules={
        "vlmevalkit": mathvista.vlmevalkit,
        "ola": mathvista.vlmevalkit,
        "lmms_eval": mathvista.lmms_eval,
    },
    measures=accuracy(),
    max_new_tokens=512,
    references=(Reference(AUTHOR, 68.00),),
    known_md5={"MathVista_MINI.tsv": "f199b98e178e5a2a20e7048f5dcb0464"},
    judge=extract_value,
    judged="always",
    paper_quirks=Quirks(enlarge_small_images=True),
)
