import dataclasses
import json
import pathlib
from typing import Any

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.accuracy import read_questions, score_questions
from ola_jax.eval.tasks import read_tasks
from ola_jax.generate.sampling import SamplingConfig
from ola_jax.training.config import EvalTask
from tests.generate import small

GREEDY = SamplingConfig(vocab_size=728)


def written(folder: pathlib.Path, records: Any) -> str:
    (folder / "questions.json").write_text(json.dumps(records), encoding="utf-8")
    return str(folder / "questions.json")


def record(question: Any, answer: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def test_an_answer_counts_if_it_is_the_expected_one(tmp_path: pathlib.Path) -> None:
    texts, processor = ["Hi", "Who are you?", "Where?", "When?", "Why?"], small.processor()

    def score(answers: list[str]) -> dict[str, Any]:
        questions = read_questions(written(tmp_path, list(map(record, texts, answers))), "", processor)
        questions = [dataclasses.replace(each, max_new_tokens=12) for each in questions]  # it never ends
        return score_questions(
            small.MODEL,
            small.params(),
            processor,
            questions=questions,
            sampling=GREEDY,
            rows=2,  # the last batch is incomplete
        )

    all_wrong = score(["no"] * 5)
    assert (all_wrong["accuracy"], all_wrong["questions"], len(all_wrong["wrong"])) == (0.0, 5, 5)
    answers = [each["answer"] for each in all_wrong["wrong"]]
    assert score([*answers[:3], "no", f" {answers[4]}\n"])["accuracy"] == 0.8


def test_there_is_room_for_more_than_the_expected_answer(tmp_path: pathlib.Path) -> None:
    processor = small.processor()
    records = [record("Hi", "Ho"), record("Hi", "It is a long answer, of several sentences. " * 10)]
    for question in read_questions(written(tmp_path, records), "", processor):
        assert question.max_new_tokens > len(processor.tokenizer.encode(question.expected).ids) + 1


BAD = {
    "no answer": ({"conversations": [{"from": "human", "value": "Hi"}]}, "one from 'gpt'"),
    "two turns": ({"conversations": record("a", "b")["conversations"] * 2}, "one from 'gpt'"),
    "answer first": ({"conversations": record("a", "b")["conversations"][::-1]}, "one from 'gpt'"),
    "answer is a number": (record("Hi", 7), "expected the answer as text, found '7'"),
    "answer is null": (record("Hi", None), "found 'None'"),
    "answer is empty": (record("Hi", "  "), "expected the answer as text"),
    "question is a number": (record(7, "a"), "'conversations'"),
    "no conversation": ({}, "'conversations'"),
    "message is text": ({"conversations": ["Hi", "Ho"]}, "'conversations'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_without_question_and_answer_is_named(name: str, tmp_path: pathlib.Path) -> None:
    bad, message = BAD[name]
    file = written(tmp_path, [record("Hi", "Ho"), bad])
    with pytest.raises(OlaError, match=r"questions\.json: record 1: ") as caught:
        read_questions(file, "", small.processor())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(read_questions(file, "", small.processor(), limit=1)) == 1  # the bad one is not read


@pytest.mark.parametrize(("records", "message"), [([], "no records"), ({}, "expected a JSON array")])
def test_a_task_without_questions_is_refused(records: Any, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=message):
        read_questions(written(tmp_path, records), "", small.processor())


def test_limits_and_rows_below_one_and_no_questions_are_refused(tmp_path: pathlib.Path) -> None:
    file = written(tmp_path, [record("Hi", "Ho")])
    with pytest.raises(OlaError, match="limit of questions is 0"):
        read_questions(file, "", small.processor(), limit=0)
    model = small.MODEL, small.params(), small.processor()
    with pytest.raises(OlaError, match="0 questions"):
        score_questions(*model, questions=[], sampling=GREEDY, rows=2)
    with pytest.raises(OlaError, match="0 rows"):
        score_questions(
            *model, questions=read_questions(file, "", small.processor()), sampling=GREEDY, rows=0
        )


def test_tasks_of_one_name_are_refused(tmp_path: pathlib.Path) -> None:
    task = EvalTask("a", "a", written(tmp_path, [record("Hi", "Ho")]), "")
    with pytest.raises(OlaError, match="'a' is the name of several"):
        read_tasks([task, task], small.processor())


def test_questions_are_asked_as_prompts_and_their_answers_kept(tmp_path: pathlib.Path) -> None:
    (question,) = read_questions(written(tmp_path, [record("a", "b ") | {"id": "q1"}]), "", small.processor())
    assert (question.sample.id, question.expected) == ("q1", "b ")
    prompt = small.processor().sample({"conversations": record("a", "b")["conversations"][:1]})
    assert question.sample.tokens.tolist() == prompt.tokens.tolist()
