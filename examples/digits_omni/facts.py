"""Text-only questions: small sums and facts about digits, each asked in many wordings."""

import collections
import dataclasses

import numpy as np

from examples.digits_omni.questions import WORDS, parity

KEPT = 4  # wordings of a fact that always stay in training


@dataclasses.dataclass(frozen=True)
class TextQuestion:
    """A question in one wording; `fact` is the same in every wording."""

    fact: tuple[str, int, int]
    text: str
    answer: str


def all_questions() -> list[TextQuestion]:
    """Every fact in every wording, numbers written as figures and as words."""
    found: list[TextQuestion] = []

    def ask(kind: str, a: int, b: int, answer: int | str, *wordings: str) -> None:
        for spell in (str, WORDS.__getitem__):
            for wording in wordings:
                text = wording.format(a=spell(a), b=spell(b))
                found.append(TextQuestion((kind, a, b), text, str(answer)))

    for a in range(10):
        ask("parity", a, 0, parity(a), "Is {a} even or odd?", "Even or odd: {a}?", "{a} is even or odd?")
        ask("parity", a, 0, parity(a), "Tell me: is {a} even or odd?")
        if a < 9:
            after = ("Which digit comes after {a}?", "What comes after {a}?", "{a} is followed by what?")
            ask("next", a, 0, a + 1, *after, "Name the digit after {a}.")
        for b in range(10):
            if a + b < 10:
                plus = ("What is {a} plus {b}?", "How much is {a} plus {b}?", "{a} plus {b} is what?")
                ask("plus", a, b, a + b, *plus, "Add {a} and {b}.", "{a} plus {b}?")
            if a != b:
                larger = (
                    "Which is larger, {a} or {b}?",
                    "Is {a} or {b} larger?",
                    "Name the larger: {a} or {b}.",
                )
                ask("larger", a, b, max(a, b), *larger)
    return found


def split_questions(rng: np.random.Generator, heldout: int) -> tuple[list[TextQuestion], list[TextQuestion]]:
    """Training and held-out questions: no wording is in both, every held-out fact is in training."""
    questions = all_questions()
    wordings = collections.Counter(question.fact for question in questions)
    train: list[TextQuestion] = []
    held: list[TextQuestion] = []
    for i in rng.permutation(len(questions)):
        question = questions[i]
        if len(held) < heldout and wordings[question.fact] > KEPT:
            wordings[question.fact] -= 1
            held.append(question)
        else:
            train.append(question)
    return train, held
