import pytest

from examples.digits_omni.tasks import TASKS, chance_level, is_correct


def record(question: str, answer: str, **media: str) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns} | media


def test_answers_match_exactly_but_for_space_around():
    assert is_correct(" 3 and 5\n", "3 and 5")
    assert not is_correct("3 and 5.", "3 and 5")
    assert not is_correct("", "7")


def test_chance_is_the_best_answer_to_each_question_without_the_media():
    digits = [record("<image>\nDigit?", str(i % 5), image="a.png") for i in range(10)]
    colours = [record("<image>\nColour?", colour, image="a.png") for colour in ("red", "red", "red", "blue")]
    assert chance_level(digits) == pytest.approx(0.2)
    assert chance_level(digits + colours) == pytest.approx((2 + 3) / 14)


def test_chance_of_text_is_the_most_common_answer():
    assert chance_level([record(f"What is {i}?", str(i % 4)) for i in range(8)]) == pytest.approx(0.25)


def test_task_names_are_distinct():
    assert len({task.name for task in TASKS}) == len(TASKS) == 8
