import numpy as np
import pytest

from examples.digits_omni.facts import KEPT, all_questions, split_questions
from examples.digits_omni.questions import WORDS, parity


def numbers_in(text: str) -> list[int]:
    words = text.replace(",", " ").replace(".", " ").replace("?", " ").replace(":", " ").split()
    return [int(w) if w.isdigit() else WORDS.index(w) for w in words if w.isdigit() or w in WORDS]


def test_answers_are_right():
    for question in all_questions():
        kind, *_ = question.fact
        a, *rest = numbers_in(question.text)
        expected = {
            "parity": lambda a=a: parity(a),
            "next": lambda a=a: str(a + 1),
            "plus": lambda a=a, rest=rest: str(a + rest[0]),
            "larger": lambda a=a, rest=rest: str(max(a, rest[0])),
        }[kind]()
        assert question.answer == expected, question


def test_a_question_is_asked_once_and_has_one_answer():
    texts = [question.text for question in all_questions()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("seed", range(3))
def test_heldout_facts_stay_in_training_in_other_wordings(seed):
    train, heldout = split_questions(np.random.default_rng(seed), 200)
    assert len(heldout) == 200
    assert len(train) + len(heldout) == len(all_questions())
    assert {q.text for q in train}.isdisjoint(q.text for q in heldout)
    for fact in {q.fact for q in heldout}:
        assert sum(q.fact == fact for q in train) >= KEPT
