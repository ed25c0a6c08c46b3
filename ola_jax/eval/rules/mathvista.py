"""Rules of MathVista: an answer that already is a value, or a letter; all others need a judge."""

from ola_jax.eval.items import Item
from ola_jax.eval.rules.letters import inferred_letter
from ola_jax.eval.rules.reading import UNREADABLE, Reading


def vlmevalkit(item: Item, answer: str) -> Reading:
    """VLMEvalKit, `post_check` of dataset/utils/mathvista.py, before it asks a judge.

    A number counts as read only if it is the right one: a wrong one goes to the judge as well.
    """
    if item.options:
        found = inferred_letter(answer, item.choices)
        return UNREADABLE if found is None else Reading(float(found in item.answers), found)
    return Reading(1.0, answer.strip()) if is_value(answer, item) else UNREADABLE


def is_value(text: str, item: Item) -> bool:
    """True if a text is the right number, as VLMEvalKit compares it: a list is never right."""
    value = _value(text, item.fields["answer_type"])
    return value is not None and value == _value(item.answers[0], item.fields["answer_type"])


def lmms_eval(item: Item, answer: str) -> Reading:
    """lmms-eval, tasks/mathvista/mathvista_evals.py, before it asks a judge: an option, or a bare number."""
    if item.options:
        if answer.strip() not in item.options:
            return UNREADABLE
        letter = item.letters[item.options.index(answer.strip())]
        return Reading(float(letter in item.answers), letter)
    kind = item.fields["answer_type"]
    value = _value(answer, kind) if kind in ("integer", "float") else None
    if value is None:
        return UNREADABLE
    return Reading(float(compare(str(value), item)), str(value))


def compare(extracted: str, item: Item) -> bool:
    """True if an extracted answer is the right one, as lmms-eval compares them: as text, once rounded."""
    if item.options:
        return any(letter in item.answers for letter, text in item.choices.items() if text == extracted)
    kind, precision = item.fields["answer_type"], int(float(item.fields.get("precision") or 0))
    try:
        if kind == "integer":
            extracted = str(int(float(extracted)))
        elif kind == "float":
            extracted = str(round(float(extracted), precision))
    except (ValueError, OverflowError):
        return False
    return extracted.strip() == item.answers[0].strip()


def _value(text: str, kind: str) -> int | float | str | None:
    try:
        return int(text) if kind == "integer" else float(text) if kind == "float" else None
    except ValueError:
        return None
