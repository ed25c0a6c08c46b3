"""Judges: a stand-in server; answers kept on disk; no score without a judge where one is needed."""

import http.server
import json
import pathlib
import threading
from collections.abc import Iterator

import pytest

from ola_jax.errors import OlaError
from ola_jax.eval.answers import Answer
from ola_jax.eval.benchmarks import benchmark
from ola_jax.eval.grading import Scores, grade
from ola_jax.eval.items import Item
from ola_jax.eval.judge import Judge, JudgeConfig


class StandIn(http.server.ThreadingHTTPServer):
    """A server that answers as OpenAI's does."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.headers: list[str | None] = []
        self.failures = 0  # status 503 so many times
        self.reply = "A"
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **body})
        self.server.headers.append(self.headers["Authorization"])
        status, text = 200, json.dumps({"choices": [{"message": {"content": self.server.reply}}]})
        if self.server.failures:
            self.server.failures -= 1
            status, text = 503, "busy"
        if self.server.reply == "refuse":
            status, text = 401, "no key"
        if self.server.reply == "no JSON":
            text = "hello"
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_prompt_is_asked_once_and_kept(server: StandIn, tmp_path: pathlib.Path) -> None:
    config = JudgeConfig(server.url, "gpt-x", key="secret")
    judge = Judge(config, tmp_path)
    assert [judge("one"), judge("one"), judge("two")] == ["A", "A", "A"]
    assert [request["messages"][0]["content"] for request in server.requests] == ["one", "two"]
    assert server.requests[0]["path"] == "/v1/chat/completions"
    assert (server.requests[0]["model"], server.requests[0]["temperature"]) == ("gpt-x", 0.0)
    assert server.headers == ["Bearer secret"] * 2
    with (tmp_path / "judge.jsonl").open("a") as stream:
        stream.write('{"key": "half a li')  # killed while it was written
    again = Judge(config, tmp_path)
    assert (again("one"), again("three"), Judge(config, tmp_path)("three")) == ("A", "A", "A")
    assert len(server.requests) == 3
    assert Judge(JudgeConfig(server.url, "another"), tmp_path)("one") == "A"
    assert len(server.requests) == 4
    assert "secret" not in (tmp_path / "judge.jsonl").read_text() + repr(config)


def test_a_busy_judge_is_asked_again_and_others_are_reported(server: StandIn, tmp_path: pathlib.Path) -> None:
    config = JudgeConfig(server.url, "gpt-x")
    server.failures = 2
    assert Judge(config, tmp_path, wait=0.01)("one") == "A"
    assert len(server.requests) == 3
    server.failures = 9
    with pytest.raises(OlaError, match=r"the judge gpt-x at .* does not answer \(status 503: busy\)"):
        Judge(config, tmp_path, wait=0.01)("two")
    server.failures, server.reply = 0, "refuse"
    count = len(server.requests)
    with pytest.raises(OlaError, match="status 401: no key"):
        Judge(config, tmp_path, wait=0.01)("two")
    assert len(server.requests) == count + 1  # of no use to ask again
    server.reply = "no JSON"
    with pytest.raises(OlaError, match="did not answer as OpenAI's API does: 'hello'"):
        Judge(config, tmp_path, wait=0.01)("two")
    with pytest.raises(OlaError, match="does not answer"):
        Judge(JudgeConfig("http://127.0.0.1:9/v1", "x"), tmp_path, wait=0.01)("two")


def graded(task: str, item: Item, said: str, judge: Judge | None, prompt: str = "vlmevalkit") -> Scores:
    named = benchmark(task)
    answers = {item.id: Answer(item.id, said)}
    return grade(named, [item], answers, named.prompt_name(prompt), judge)


MMVET = Item("1", "x?", ("-1<AND>-5",), category="ocr")
AUDIO = Item("1", "q", ("rain",), category="sound", groups={"audio": "a"}, fields={"description": "d"})
MATH = Item("1", "q", ("14",), fields={"answer_type": "integer", "query": "q"})


@pytest.mark.parametrize(
    ("task", "item", "prompt"),
    [
        ("mmvet", MMVET, "vlmevalkit"),
        ("air_bench_chat", AUDIO, "lmms_eval"),
        ("mathvista_mini", MATH, "vlmevalkit"),
    ],
)
def test_without_a_judge_there_is_no_score(task: str, item: Item, prompt: str) -> None:
    scores = graded(task, item, "14", None, prompt)
    assert scores.figures == []
    assert "judge" in str(scores.not_comparable)


def test_a_judge_gives_the_scores(server: StandIn, tmp_path: pathlib.Path) -> None:
    judge = Judge(JudgeConfig(server.url, "gpt-x"), tmp_path, wait=0.01)
    server.reply = "0.5"
    assert graded("mmvet", MMVET, "x = -1", judge).figures[0].value == pytest.approx(50.0)
    server.reply = "many"
    assert graded("mmvet", MMVET, "x = -2", judge).unreadable == 1
    server.reply = "8 6"
    scores = graded("air_bench_chat", AUDIO, "it rains", judge, "lmms_eval")
    assert scores.figures[0].value == pytest.approx((6 + 8) / 2)  # once as the second, once as the first
    server.reply = "14"
    assert graded("mathvista_mini", MATH, "so it is fourteen", judge).figures[0].value == 100.0
    count = len(server.requests)
    assert graded("mathvista_mini", MATH, "14", judge).judged == 0  # it needs none
    assert len(server.requests) == count
    choice = Item("1", "q", ("A",), ("cat", "dog"), category="c")
    server.reply = "A"
    scores = graded("mmstar", Item("1", "q", ("A",), ("cat", "dog"), groups={"l2": "x"}), "a kitten", judge)
    assert (scores.figures[0].value, scores.judged, scores.unreadable) == (100.0, 1, 0)
    server.reply = "Z"
    scores = graded("ai2d", choice, "a kitten, perhaps", judge)
    assert (scores.figures[0].value, scores.judged, scores.unreadable) == (0.0, 1, 1)
    server.reply = "Yes"
    groups = {"set": "s", "figure": "f", "question": "q"}
    scores = graded("hallusion_bench", Item("1", "q", ("Yes",), groups=groups), "surely", judge)
    assert scores.figures[0].value == 100.0


def test_a_split_whose_answers_are_secret_has_no_score() -> None:
    scores = graded("ai2d", Item("1", "q", (), ("x", "y")), "A", None)
    assert scores.not_comparable == "the answers of this split are not published"
