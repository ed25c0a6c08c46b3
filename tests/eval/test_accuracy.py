import json
import pathlib
from typing import Any

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.accuracy import read_questions
from tests.data.made_up import tiny_processor


def asked(*messages: str, **keys: Any) -> dict[str, Any]:
    who = ("human", "gpt")
    return {"conversations": [{"from": who[i % 2], "value": m} for i, m in enumerate(messages)], **keys}


def write(folder: pathlib.Path, records: list[Any]) -> str:
    (folder / "q.json").write_text(json.dumps(records))
    return str(folder / "q.json")


def test_questions_are_asked_as_prompts_and_their_answers_kept(tmp_path: pathlib.Path) -> None:
    (question,) = read_questions(
        write(tmp_path, [asked("a", "b ", id="q1")]), str(tmp_path), tiny_processor()
    )
    assert question.expected == "b "
    assert question.sample.id == "q1"
    prompt = tiny_processor().sample(asked("a"))
    assert question.sample.tokens.tolist() == prompt.tokens.tolist()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (asked("a"), "expected one question of 'human' and one answer of 'gpt'"),
        (asked("a", "b", "c"), "expected one question"),
        (asked("a", "b", "c", "d"), "expected one question"),
        ({"conversations": 3}, "'conversations': expected a list"),
        ({"id": "q"}, "'conversations': expected a list"),
        (asked("<image>\nx", "y", image="none.png", id="q"), r"record 'q': .*none\.png: no such file"),
        (asked("<image>\nx", "y"), "'<image>' in the text and no image"),
        (["x"], "expected a JSON object, found list"),
    ],
)
def test_questions_that_cannot_be_asked_are_errors_that_say_where(
    tmp_path: pathlib.Path, record: Any, message: str
) -> None:
    path = write(tmp_path, [asked("a", "b"), record])
    with pytest.raises(OlaError, match=rf"q\.json.*1.*: .*{message}"):
        read_questions(path, str(tmp_path), tiny_processor())


def test_no_questions_are_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match=r"q\.json: no records in it"):
        read_questions(write(tmp_path, []), str(tmp_path), tiny_processor())
