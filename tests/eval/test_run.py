"""A benchmark from checkpoint and data to results: resumed at any point, and not mixed with others."""

import dataclasses
import json
import pathlib

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval import run
from ola_jax.eval.answers import FILE, Answer, read_answers
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.run import EvaluationJob, evaluate
from ola_jax.generate.engine import Engine, EngineConfig
from tests.eval import made_up

TEXTS = [f"Who are you, number {i}?" for i in range(7)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return made_up.text_checkpoint(tmp_path_factory.mktemp("model") / "model")


def job(model: pathlib.Path, folder: pathlib.Path, **changes: object) -> EvaluationJob:
    if not (folder / "data/talk.json").exists():
        made_up.write_records(folder / "data/talk.json", TEXTS, ["x"] * len(TEXTS))
    given = {"max_new_tokens": 6, "workers": 2} | changes
    return EvaluationJob(benchmark("records"), model, folder / "data", folder / "out", prompt="ola", **given)


class Loader:
    """Loads an engine, and counts how often."""

    def __init__(self, model: pathlib.Path):
        self.model, self.count = model, 0

    def __call__(self) -> Engine:
        self.count += 1
        config = EngineConfig(slots=2, length=256, queue=8, prefill_chunk=32, kept_features=0)
        return Engine.from_pretrained(self.model, config)


def test_a_run_is_resumed_and_scored_as_one_that_was_never_stopped(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    load = Loader(model)
    whole = evaluate(job(model, tmp_path / "a"), load)
    _, answers = read_answers(tmp_path / "a/out")
    assert len(answers) == len(whole.graded) == 7
    assert all(answer.error is None and answer.new_tokens for answer in answers.values())
    # The same, killed after four answers and half a line.
    half = job(model, tmp_path / "b")
    evaluate(dataclasses.replace(half, limit=4), load)
    file = tmp_path / "b/out" / FILE
    file.write_bytes(file.read_bytes() + b'{"id": "talk_5", "te')
    seen: list[tuple[int, int]] = []
    resumed = evaluate(half, load, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 7), (5, 7), (6, 7), (7, 7)]
    text = lambda scores: [(each.item.id, each.answer) for each in scores.graded]
    assert text(resumed) == text(whole)
    # Nothing is left to ask: no model is loaded.
    assert load.count == 3
    assert text(evaluate(half, load)) == text(whole)
    assert load.count == 3


def test_right_answers_are_counted_and_written_with_their_settings(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first = evaluate(job(model, tmp_path / "a"), Loader(model))
    said = [each.answer for each in first.graded]
    made_up.write_records(tmp_path / "b/data/talk.json", TEXTS, [*said[:3], *(f"not {a}" for a in said[3:])])
    scores = evaluate(job(model, tmp_path / "b"), Loader(model), settings={"dtype": None})
    assert scores.figures[0].value == pytest.approx(100 * 3 / 7)
    results = json.loads((tmp_path / "b/out/results.json").read_text())
    assert results["score"] == pytest.approx(100 * 3 / 7)
    assert results["settings"]["prompt"] == "ola"
    assert len(results["settings"]["checkpoint_sha256"]) == 64
    assert list(results["settings"]["data_md5"]) == ["talk.json"]
    assert results["versions"]["jax"]
    assert (tmp_path / "b/out/results.png").read_bytes()[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in (tmp_path / "b/out/scores.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [1, 1, 1, 0, 0, 0, 0]


def test_answers_of_other_settings_are_not_mixed(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    load = Loader(model)
    evaluate(job(model, tmp_path, limit=1), load)
    with pytest.raises(OlaError, match=r"answers\.jsonl: its answers were given with max_new_tokens = 6"):
        evaluate(job(model, tmp_path, limit=1, max_new_tokens=7), load)
    made_up.write_records(tmp_path / "data/talk.json", TEXTS, ["y"] * 7)
    with pytest.raises(OlaError, match="data_md5"):
        evaluate(job(model, tmp_path, limit=1), load)
    assert load.count == 1


def test_a_question_that_fails_is_wrong_and_counted_and_asked_again(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    load = Loader(model)
    data = made_up.write_records(tmp_path / "data/talk.json", ["Hi", "long " * 500, "Ho"], ["a", "b", "c"])
    scores = evaluate(job(model, tmp_path), load)
    assert (scores.failed, scores.unreadable, len(scores.graded)) == (1, 0, 3)
    assert "max_length" in str(read_answers(tmp_path / "out")[1]["talk_1"].error)
    evaluate(job(model, tmp_path), load)
    assert load.count == 2  # asked again
    assert data.exists()


def test_a_run_in_which_nothing_can_be_asked_is_an_error(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made_up.write_records(tmp_path / "data/talk.json", ["long " * 500] * 2, ["a", "b"])
    with pytest.raises(OlaError, match=r"none of the questions could be asked; the last: .*max_length"):
        evaluate(job(model, tmp_path), Loader(model))


def test_a_broken_file_of_answers_is_named(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text("no JSON\n")
    with pytest.raises(OlaError, match=r"answers\.jsonl: line 1 is not an answer"):
        evaluate(job(model, tmp_path), Loader(model))


def test_limits_and_folders_are_checked(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="limit is 0"):
        run.read_questions_of(job(model, tmp_path, limit=0))
    with pytest.raises(OlaError, match="no such folder; expected JSON files of records"):
        run.read_questions_of(dataclasses.replace(job(model, tmp_path), data=tmp_path / "none"))
    with pytest.raises(OlaError, match=r"talk\.json has MD5 [0-9a-f]{32}; published: none is known"):
        run.read_questions_of(job(model, tmp_path, only_published_files=True))
    with pytest.raises(OlaError, match="no such checkpoint"):
        evaluate(job(tmp_path / "none", tmp_path), Loader(model))


def test_questions_of_one_id_get_ids_of_their_own(tmp_path: pathlib.Path) -> None:
    items = [each.item for each in (made_up.graded("a", 1), made_up.graded("b", 1), made_up.graded("a", 0))]
    assert [item.id for item in run.with_unique_ids(items)] == ["a", "b", "a#2"]
    assert Answer("a").error is None
