"""MMMU: questions of many subjects with up to seven images inside their text; multiple choice and open."""

import pathlib
import re

from ola_jax.eval.benchmark import AUTHOR, PAPER, Benchmark, Quirks, Reference, Source
from ola_jax.eval.benchmarks.common import (
    LETTER_DIRECTLY,
    lettered,
    ola_choice_text,
    row_images,
    row_options,
    text_list,
    vlmevalkit_choice_text,
)
from ola_jax.eval.counting import accuracy
from ola_jax.eval.items import Item, MediaSlot, Prompt
from ola_jax.eval.judging import match_option
from ola_jax.eval.published import find, is_present, read_parquet, read_tsv
from ola_jax.eval.rules import mmmu

IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_MARK = re.compile(r"<image (\d+)>")


def read(folder: pathlib.Path) -> Source:
    """Reads the validation questions of MMMU_DEV_VAL.tsv, or the parquet files of MMMU/MMMU."""
    files = find(folder, "MMMU_DEV_VAL.tsv", "**/validation-*.parquet", "**/*.parquet")
    if files[0].suffix == ".parquet":
        rows = read_parquet(files, ["id", "question", "options", "question_type", "answer"], IMAGES)
        return Source([_from_parquet(row) for row in rows], files)
    rows = read_tsv(files[0], ["index", "question", "answer", "image"])
    chosen = [
        (row, images)
        for row, images in zip(rows, row_images(rows, files[0]), strict=True)
        if row.get("split", "validation") == "validation"
    ]
    items = [
        Item(
            row.get("id", row["index"]),
            row["question"],
            (row["answer"],),
            row_options(row),
            images=images,
            category=row.get("category", ""),
        )
        for row, images in chosen
    ]
    return Source(items, files[:1])


def _from_parquet(row: dict) -> Item:
    options = text_list(row["options"], f"question {row['id']}: options")
    answer = row["answer"]
    answers = text_list(answer, "answer") if answer.startswith("[") and not options else [answer]
    subject = re.fullmatch(r"[^_]+_(.+?)_\d+", row["id"])
    # lmms-eval shows the images that the text refers to, which are those that are there.
    images = [row[name] for name in IMAGES]
    count = next((i for i, image in enumerate(images) if not is_present(image)), len(images))
    return Item(
        row["id"],
        row["question"],
        tuple(answers),
        tuple(options),
        images=tuple(images[:count]),
        category=subject[1] if subject else row.get("subfield", ""),
    )


def _vlmevalkit(item: Item) -> Prompt:
    """The images where the text names them. VLMEvalKit, `split_MMMU` of dataset/image_mcq.py."""
    return split_at_images(vlmevalkit_choice_text(item))


def _ola(item: Item) -> Prompt:
    """All images first, and their marks kept as text: the author's wording does not split the text."""
    return (MediaSlot(), ola_choice_text(item))


def _lmms(item: Item) -> Prompt:
    if item.options:
        text = f"{item.question}\n{lettered(item)}\n\n{LETTER_DIRECTLY}"
    else:
        text = f"{item.question}\n\nAnswer the question using a single word or phrase."
    # lmms-eval gives the images in the order of their names, whatever the order of the marks, each once;
    # the pieces of text between them are stripped.
    names = sorted({int(n) for n in _MARK.findall(text)})
    pieces = [piece.strip() for piece in re.split(r"<image \d>", text)]
    prompt: list[str | MediaSlot] = []
    for number, name in enumerate(names):
        if number < len(pieces) - 1 and pieces[number]:
            prompt.append(pieces[number])
        prompt.append(MediaSlot(name - 1))
    return (*prompt, pieces[-1])


def split_at_images(text: str) -> Prompt:
    """The text with an image at each "<image N>"; all media in front if there is none."""
    parts = _MARK.split(text)
    if len(parts) == 1:
        return (MediaSlot(), text)
    prompt: list[str | MediaSlot] = [parts[0]]
    for number, after in zip(parts[1::2], parts[2::2], strict=True):
        prompt += [MediaSlot(int(number) - 1), after]
    return tuple(prompt)


MMMU = Benchmark(
    name="mmmu_val",
    title="MMMU, validation",
    modality="image",
    expects="MMMU_DEV_VAL.tsv, or the validation parquet files of MMMU/MMMU",
    read=read,
    wordings={"vlmevalkit": _vlmevalkit, "ola": _ola, "lmms_eval": _lmms},
    rules={"vlmevalkit": mmmu.vlmevalkit, "ola": mmmu.vlmevalkit, "lmms_eval": mmmu.lmms_eval},
    measures=accuracy(),
    max_new_tokens=512,
    references=(Reference(PAPER, 57.0), Reference(AUTHOR, 54.67)),
    known_md5={"MMMU_DEV_VAL.tsv": "585e8ad75e73f75dcad265dfd0417d64"},
    judge=match_option,
    judged="unreadable",
    paper_quirks=Quirks(high_view_only=True, enlarge_small_images=True),
    note="the author's figure is of VLMEvalKit, where a judge reads open answers",
)
