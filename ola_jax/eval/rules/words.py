"""Rules for answers in words: yes or no, contained text, exact text."""

import re

from ola_jax.eval.items import Item
from ola_jax.eval.rules.reading import UNREADABLE, Reading

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"(\d)(,)(\d)")
_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")
FORMULAS = "Handwritten Mathematical Expression Recognition"


def yes_or_no(item: Item, answer: str) -> Reading:
    """Exactly one of the words yes and no. VLMEvalKit, `YOrN_Extraction` of dataset/utils/yorn.py."""
    words = _without_punctuation(answer.lower()).split()
    found = [word for word in ("yes", "no") if word in words]
    if len(found) != 1:
        return UNREADABLE
    return Reading(float(found[0] in {each.lower() for each in item.answers}), found[0].capitalize())


def contains_answer(item: Item, answer: str) -> Reading:
    """Any accepted text is in the answer, case ignored; of formulas spaces are, and case counts.

    VLMEvalKit, `OCRBench` of dataset/image_vqa.py. An empty answer is unreadable.
    """
    return _contains(item, answer, fold=lambda text: text)


def contains_answer_folded(item: Item, answer: str) -> Reading:
    """The same with full-width characters taken for their usual forms. lmms-eval, tasks/ocrbench."""
    return _contains(item, answer, fold=_fold_width)


def is_answer(item: Item, answer: str) -> Reading:
    """The answer is an accepted text, but for space around it; an empty one is unreadable."""
    text = answer.strip()
    return Reading(float(text in {each.strip() for each in item.answers}), text) if text else UNREADABLE


def _contains(item: Item, answer: str, fold: "type[str] | object") -> Reading:
    assert callable(fold)
    if not answer.strip():
        return UNREADABLE
    formula = item.category == FORMULAS

    def normal(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if formula else str(fold(text)).lower().strip()

    said = normal(answer)
    return Reading(float(any(normal(each) in said for each in item.answers)), said)


def _fold_width(text: str) -> str:
    """Full-width ASCII characters and the ideographic space as their usual forms, nothing else."""
    table = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
    return text.translate(table)


def _without_punctuation(text: str) -> str:
    """VLMEvalKit, `process_punctuation` of smp/misc.py."""
    out = text
    for mark in _MARKS:
        if f"{mark} " in text or f" {mark}" in text or _COMMA.search(text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    return _PERIOD.sub("", out, count=int(re.UNICODE))  # as published: the flag is taken for a count
