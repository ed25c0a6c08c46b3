"""The file of answers: one JSON line each, written as they come, so that a killed run loses none."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ola_jax.errors import OlaError, first_line, quote

FILE = "answers.jsonl"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The model's answer to a question, or why it could not be asked."""

    id: str
    text: str = ""
    finish: str = ""  # "stop", "length"
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None


class AnswerFile:
    """Answers of a run, those of earlier runs with the same settings included.

    Questions that failed are asked again. Raises OlaError if the file has answers given with other settings.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
        self._path = folder / FILE
        self.answers: dict[str, Answer] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            end = self._load(settings)
            self._stream = self._path.open("ab")
            self._stream.truncate(end)  # a line that was being written when the last run was killed
            if end == 0:
                self._write({"settings": dict(settings)})
        except OSError as error:
            raise OlaError(f"{self._path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, answer: Answer) -> None:
        """Stores an answer; it is in the hands of the operating system when this returns."""
        self.answers[answer.id] = answer
        try:
            self._write({k: v for k, v in dataclasses.asdict(answer).items() if v is not None})
        except OSError as error:
            raise OlaError(
                f"{self._path}: cannot be written ({error.strerror}); earlier answers are kept: make room, "
                "and run the same command again"
            ) from error

    def _write(self, value: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._stream.flush()

    def _load(self, settings: Mapping[str, Any]) -> int:
        """Reads earlier answers; returns the number of bytes that are complete lines."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(data.splitlines()):
            try:
                value = json.loads(line)
                if number == 0:
                    _check_settings(self._path, value["settings"], settings)
                else:
                    answer = Answer(**value)
                    self.answers[answer.id] = answer
            except (ValueError, TypeError, KeyError) as error:
                raise OlaError(
                    f"{self._path}: line {number + 1} is not an answer ({first_line(error)}); choose another "
                    "output, or remove the file"
                ) from error
        return len(data)


def read_answers(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Answer]]:
    """The settings and the answers of a run. Raises OlaError if there are none."""
    path = folder / FILE
    try:
        first, *rest = path.read_bytes().split(b"\n")
        answers = [Answer(**json.loads(line)) for line in rest[:-1]]
        return json.loads(first)["settings"], {answer.id: answer for answer in answers}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OlaError(f"{path}: no answers can be read ({first_line(error)})") from error


def _check_settings(path: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(wanted))
    for name in [*wanted, *(key for key in found if key not in wanted)]:
        if found.get(name) != wanted.get(name):
            raise OlaError(
                f"{path}: its answers were given with {name} = {quote(found.get(name))}, not "
                f"{quote(wanted.get(name))}; choose another output, or remove the file"
            )
