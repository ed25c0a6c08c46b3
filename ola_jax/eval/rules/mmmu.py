"""Rules of MMMU: letters, and open questions with several numbers and texts in an answer.

Source: lmms-eval 0.7.3, tasks/mmmu/utils.py, which is MMMU's own rule.
"""

import re

from ola_jax.eval.items import Item
from ola_jax.eval.rules.letters import inferred_letter, mmmu_letter
from ola_jax.eval.rules.reading import UNREADABLE, Reading, of_letter

_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset((":", ",", ".", "!", "?", ";", "'"))


def lmms_eval(item: Item, answer: str) -> Reading:
    """lmms-eval's: a letter, or the open rule; without a letter unreadable, where it guesses."""
    return of_letter(item, mmmu_letter(answer, item.choices)) if item.options else open_answer(item, answer)


def vlmevalkit(item: Item, answer: str) -> Reading:
    """VLMEvalKit's without a judge: an open question is right if it contains the answer.

    It makes open questions multiple choice between the answer and "Other Answers".
    """
    if item.options:
        return of_letter(item, inferred_letter(answer, item.choices))
    found = inferred_letter(answer, {"A": item.answers[0], "B": "Other Answers"} if item.answers else {})
    return UNREADABLE if found is None else Reading(float(found == "A"), found)


def open_answer(item: Item, answer: str) -> Reading:
    """Any accepted text is contained, or any number equal to two decimals, in what the answer concludes."""
    if not answer.strip():
        return UNREADABLE
    accepted = [value for each in item.answers for value in _normal(each)]
    found = _conclusions(answer)
    right = any(
        any(isinstance(a, str) and a in value for a in accepted)
        if isinstance(value, str)
        else value in accepted
        for value in found
    )
    return Reading(float(right), "; ".join(sorted(map(str, found))))


def _conclusions(answer: str) -> set[str | float]:
    """The tails of sentences after words such as "is", and all numbers in them."""
    whole = answer.strip().strip(".").lower()
    sentences = re.split(r"\.\s(?=[A-Z])|\n", whole)
    keys: list[str] = []
    for number, sentence in enumerate(sentences):
        indicators = (*_KEYS, "=") if number == len(sentences) - 1 else _KEYS
        tails = [sentence.split(word)[-1].strip() for word in indicators if word in sentence]
        # As published: an empty tail is replaced by the next one, whatever its length.
        shortest = ""
        for tail in tails:
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in _TRIVIAL:
            keys.append(shortest)
    keys = keys or [whole]
    numbers = [n for key in keys for form in (_COMMAS, _SCIENTIFIC, _SIMPLE) for n in form.findall(key)]
    return {value for each in (*keys, *numbers) for value in _normal(each)}


def _normal(text: str) -> list[str | float]:
    """A number to two decimals, or lower case text; one letter alone must have a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
