"""HallusionBench (yes or no), OCRBench (contained text) and MMVet (graded by a judge)."""

import pathlib

from ola_jax.errors import OlaError
from ola_jax.eval.benchmark import AUTHOR, Benchmark, Quirks, Reference, Source
from ola_jax.eval.benchmarks.common import constant, row_images, text_list
from ola_jax.eval.counting import accuracy, hallusion
from ola_jax.eval.items import Item
from ola_jax.eval.judging import grade_mmvet, match_yes_or_no
from ola_jax.eval.published import find, read_parquet, read_tsv
from ola_jax.eval.rules.reading import UNREADABLE, Reading
from ola_jax.eval.rules.words import contains_answer, contains_answer_folded, yes_or_no


def read_hallusion(folder: pathlib.Path) -> Source:
    """Reads HallusionBench.tsv, or the image split of lmms-lab/HallusionBench."""
    files = find(folder, "HallusionBench.tsv", "**/image-*.parquet", "**/*.parquet")
    if files[0].suffix == ".parquet":
        columns = ["category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer"]
        items = []
        for row in read_parquet(files, columns, ["image"]):
            parts = [str(row[k]) for k in ("set_id", "figure_id", "question_id")]
            name = "_".join([row["category"], row["subcategory"], *parts])
            answer = {"1": "Yes", "0": "No"}.get(str(row["gt_answer"]), str(row["gt_answer"]))
            items.append(
                _hallusion(name, row["subcategory"], parts, row["question"], answer, (row["image"],))
            )
        return Source(items, files)
    rows = read_tsv(files[0], ["index", "question", "answer", "category", "l2-category"])
    items = []
    for row, images in zip(rows, row_images(rows, files[0]), strict=True):
        parts = row["index"].split("_")
        if len(parts) < 6:
            raise OlaError(
                f"{files[0]}: index {row['index']!r} has no set, figure and question (parts 3, 4, 5)"
            )
        items.append(
            _hallusion(row["index"], row["l2-category"], parts[3:6], row["question"], row["answer"], images)
        )
    return Source(items, files[:1])


def _hallusion(
    name: str, subcategory: str, parts: list[str], question: str, answer: str, images: tuple
) -> Item:
    in_set, figure, number = parts
    groups = {
        "set": f"{subcategory}_{in_set}",
        "figure": f"{subcategory}_{in_set}_{figure}",
        "question": f"{subcategory}_{in_set}_{number}",
    }
    return Item(name, question, (answer,), images=images, category=subcategory, groups=groups)


def read_ocrbench(folder: pathlib.Path) -> Source:
    """Reads OCRBench.tsv, or the parquet files of echo840/OCRBench."""
    files = find(folder, "OCRBench.tsv", "**/*.parquet")
    if files[0].suffix == ".parquet":
        rows = read_parquet(files, ["dataset", "question", "answer", "question_type"], ["image"])
        items = []
        for number, row in enumerate(rows):
            answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            items.append(
                Item(
                    str(number),
                    row["question"].strip(),
                    tuple(map(str, answers)),
                    images=(row["image"],),
                    category=row["question_type"],
                )
            )
        return Source(items, files)
    table = read_tsv(files[0], ["index", "question", "answer", "category"])
    items = [
        Item(
            row["index"],
            row["question"],
            tuple(text_list(row["answer"], f"question {row['index']}")),
            images=images,
            category=row["category"],
        )
        for row, images in zip(table, row_images(table, files[0]), strict=True)
    ]
    return Source(items, files[:1])


def read_mmvet(folder: pathlib.Path) -> Source:
    """Reads MMVet.tsv, or the parquet files of lmms-lab/MMVet."""
    files = find(folder, "MMVet.tsv", "**/*.parquet")
    if files[0].suffix == ".parquet":
        items = [
            Item(
                str(row["question_id"]),
                row["question"],
                (row["answer"],),
                images=(row["image"],),
                category=row["capability"],
            )
            for row in read_parquet(files, ["question_id", "question", "answer", "capability"], ["image"])
        ]
        return Source(items, files)
    table = read_tsv(files[0], ["index", "question", "answer", "category"])
    items = [
        Item(row["index"], row["question"], (row["answer"],), images=images, category=row["category"])
        for row, images in zip(table, row_images(table, files[0]), strict=True)
    ]
    return Source(items, files[:1])


def _needs_judge(item: Item, answer: str) -> Reading:
    return UNREADABLE


HALLUSION_BENCH = Benchmark(
    name="hallusion_bench",
    title="HallusionBench, images",
    modality="image",
    expects="HallusionBench.tsv, or the image split of lmms-lab/HallusionBench",
    read=read_hallusion,
    wordings={"vlmevalkit": constant(), "ola": constant(), "lmms_eval": constant()},
    rules={"vlmevalkit": yes_or_no, "ola": yes_or_no, "lmms_eval": yes_or_no},
    measures=hallusion,
    max_new_tokens=512,
    references=(Reference(AUTHOR, 51.08),),
    known_md5={"HallusionBench.tsv": "0c23ac0dc9ef46832d7a24504f2a0c7c"},
    judge=match_yes_or_no,
    judged="unreadable",
    paper_quirks=Quirks(enlarge_small_images=True),
    note="lmms-eval lets a judge grade every answer; here its prompt goes with VLMEvalKit's rule",
)

OCRBENCH = Benchmark(
    name="ocrbench",
    title="OCRBench (points of 1,000)",
    modality="image",
    expects="OCRBench.tsv, or the parquet files of echo840/OCRBench",
    read=read_ocrbench,
    wordings={"vlmevalkit": constant(), "ola": constant(), "lmms_eval": constant()},
    rules={"vlmevalkit": contains_answer, "ola": contains_answer, "lmms_eval": contains_answer_folded},
    measures=accuracy(name="points", scale=1000.0),
    max_new_tokens=512,
    references=(Reference(AUTHOR, 827.0),),
    known_md5={"OCRBench.tsv": "e953d98a987cc6e26ef717b61260b778"},
    paper_quirks=Quirks(enlarge_small_images=True),
)

MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet",
    modality="image",
    expects="MMVet.tsv, or the parquet files of lmms-lab/MMVet",
    read=read_mmvet,
    wordings={
        "vlmevalkit": constant(),
        "ola": constant(),
        "lmms_eval": constant(
            "First please perform reasoning, and think step by step to provide best answer to the "
            "following question: \n\n"
        ),
    },
    rules={"vlmevalkit": _needs_judge, "ola": _needs_judge, "lmms_eval": _needs_judge},
    measures=accuracy(),
    max_new_tokens=512,
    references=(Reference(AUTHOR, 76.10),),
    known_md5={"MMVet.tsv": "748aa6d4aa9d4de798306a63718455e3"},
    judge=grade_mmvet,
    judged="always",
    paper_quirks=Quirks(high_view_only=True, enlarge_small_images=True),
)
