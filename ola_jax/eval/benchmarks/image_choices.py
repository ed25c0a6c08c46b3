"""MMStar, AI2D: multiple choice about one image."""

import dataclasses
import pathlib

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import AUTHOR, PAPER, Benchmark, Quirks, Reference, Source
from ola_jax.eval.benchmarks.common import (
    LETTER_DIRECTLY,
    inferred,
    letter_rule,
    lettered,
    ola_choice,
    ranked,
    row_images,
    row_options,
    vlmevalkit_choice,
)
from ola_jax.eval.counting import accuracy, mean_of_categories
from ola_jax.eval.items import LETTERS, Item, Prompt, after_media
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import find, read_parquet, read_tsv
from ola_jax.eval.rules.letters import ai2d_letter


def read_mmstar(folder: pathlib.Path) -> Source:
    """Reads MMStar.tsv, or the parquet files of Lin-Chen/MMStar, whose questions hold their options."""
    files = find(folder, "MMStar.tsv", "**/*.parquet")
    columns = ["index", "question", "answer", "category", "l2_category"]
    if files[0].suffix == ".parquet":
        items = [
            Item(
                str(row["index"]),
                row["question"],
                (row["answer"].strip(),),
                _options_inside(row["question"]),
                images=(row["image"],),
                category=row["category"],
                groups={"l2": row["l2_category"]},
                fields={"options_inside": True},
            )
            for row in read_parquet(files, columns, ["image"])
        ]
        return Source(items, files)
    rows = read_tsv(files[0], ["index", "question", "answer", "category", "l2_category", "A", "B"])
    items = [
        Item(
            row["index"],
            row["question"],
            (row["answer"],),
            row_options(row),
            hint=row.get("hint", ""),
            images=images,
            category=row["category"],
            groups={"l2": row["l2_category"]},
        )
        for row, images in zip(rows, row_images(rows, files[0]), strict=True)
    ]
    return Source(items, files[:1])


def read_ai2d(folder: pathlib.Path) -> Source:
    """Reads AI2D_TEST.tsv, or the parquet files of lmms-lab/ai2d, whose answers are indices from 0."""
    files = find(folder, "AI2D_TEST.tsv", "AI2D_TEST*.tsv", "**/*.parquet")
    if files[0].suffix == ".parquet":
        items = []
        for number, row in enumerate(read_parquet(files, ["question", "options", "answer"], ["image"])):
            answer = int(row["answer"])
            if not 0 <= answer < len(row["options"]):
                raise OlaError(f"{files[0]}: row {number}: answer {answer} of {len(row['options'])} options")
            items.append(
                Item(
                    str(number),
                    row["question"],
                    (LETTERS[answer],),
                    tuple(row["options"]),
                    images=(row["image"],),
                )
            )
        return Source(items, files)
    rows = read_tsv(files[0], ["index", "question", "answer", "A", "B", "image"])
    items = [
        Item(
            row["index"],
            row["question"],
            (row["answer"],),
            row_options(row),
            images=images,
            category=row.get("category", ""),
            groups={"image": row["image"] if len(row["image"]) <= 64 else row["index"]},
        )
        for row, images in zip(rows, row_images(rows, files[0]), strict=True)
    ]
    return Source(items, files[:1])


def _options_inside(question: str) -> tuple[str, ...]:
    """The options of "... A: text, B: text, ..." ending a question; empty ones if worded otherwise."""
    _, mark, tail = question.rpartition("Options: A: ")
    if not mark:
        return ("", "", "", "")
    options = []
    for letter in LETTERS[1:]:
        text, mark, rest = tail.partition(f", {letter}: ")
        options.append(text.strip())
        if not mark:
            break
        tail = rest
    return tuple(options)


def _mmstar_lmms(item: Item) -> Prompt:
    inside = item.fields.get("options_inside")
    options = "" if inside else f"\n{lettered(item)}"
    last = "\nAnswer with the option's letter from the given choices directly"
    return after_media(f"{item.question.strip()}{options}{last}")


def _mmstar_inside(item: Item) -> Item:
    """The question without its options, where they are in it: for wordings that add them."""
    if not item.fields.get("options_inside"):
        return item
    question = item.question.rpartition("Options: A: ")[0] or item.question
    options = item.options if any(item.options) else ()
    return dataclasses.replace(item, question=question.strip(), options=options)


def _ai2d_lmms(item: Item) -> Prompt:
    return after_media(f"{item.question}\n{lettered(item)}\n{LETTER_DIRECTLY}")


MMSTAR = Benchmark(
    name="mmstar",
    title="MMStar",
    modality="image",
    expects="MMStar.tsv, or the parquet files of Lin-Chen/MMStar",
    read=read_mmstar,
    wordings={
        "vlmevalkit": lambda item: vlmevalkit_choice(_mmstar_inside(item)),
        "ola": lambda item: ola_choice(_mmstar_inside(item)),
        "lmms_eval": _mmstar_lmms,
    },
    rules={"vlmevalkit": inferred, "ola": inferred, "lmms_eval": ranked},
    measures=lambda graded: [
        *accuracy()(graded)[:1],
        *mean_of_categories(key=lambda each: each.item.groups["l2"])(graded)[:1],
        *accuracy()(graded)[1:],
    ],
    max_new_tokens=512,
    references=(Reference(PAPER, 70.8), Reference(AUTHOR, 71.00)),
    known_md5={"MMStar.tsv": "e1ecd2140806c1b1bbf54b43372efb9e"},
    judge=match_option,
    judged="unreadable",
    paper_quirks=Quirks(enlarge_small_images=True),
    note="lmms-eval reports the mean of the 18 categories of level 2",
)

AI2D = Benchmark(
    name="ai2d",
    title="AI2D",
    modality="image",
    expects="AI2D_TEST.tsv, or the parquet files of lmms-lab/ai2d",
    read=read_ai2d,
    wordings={"vlmevalkit": vlmevalkit_choice, "ola": ola_choice, "lmms_eval": _ai2d_lmms},
    rules={"vlmevalkit": inferred, "ola": inferred, "lmms_eval": letter_rule(ai2d_letter)},
    measures=accuracy("image"),
    max_new_tokens=512,
    references=(Reference(PAPER, 86.1), Reference(AUTHOR, 86.00)),
    known_md5={
        "AI2D_TEST.tsv": "0f593e0d1c7df9a3d69bf1f947e71975",
        "AI2D_TEST_NO_MASK.tsv": "fd8f463634d4fe9fbd23b876e8eea5be",
    },
    judge=match_option,
    judged="unreadable",
    paper_quirks=Quirks(enlarge_small_images=True),
)
