"""The command line `ola eval`."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ola_jax.cli import eval as command
from ola_jax.errors import OlaError
from tests.eval import made_up

TEXTS = [f"Who are you, number {i}?" for i in range(40)]


def arguments(folder: pathlib.Path, output: str, *more: str) -> list[str]:
    given = ["--checkpoint", folder / "model", "--task", "records", "--data", folder / "data"]
    given += ["--output", folder / output, "--compilation-cache", folder / "cache", "--slots", "2"]
    return [*map(str, given), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("eval")
    made_up.text_checkpoint(made / "model")
    made_up.write_records(made / "data/talk.json", TEXTS, ["x"] * len(TEXTS))
    return made


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["list"])
    assert "mmbench_v11" in capsys.readouterr().out


def test_a_killed_run_is_resumed_and_two_runs_are_compared(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = arguments(folder, "killed", "--max-new-tokens", "24", "--steps", "1")
    run = subprocess.Popen([sys.executable, "-m", "ola_jax.cli.main", "eval", *started], env=os.environ)
    answers = folder / "killed/answers.jsonl"
    while not answers.exists() or answers.read_bytes().count(b"\n") < 4:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = answers.read_bytes()
    assert before.count(b"\n") < len(TEXTS) + 1
    command.main(started)
    assert answers.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    command.main(arguments(folder, "whole", "--max-new-tokens", "24", "--steps", "1"))
    lines = [json.loads((folder / name / "results.json").read_text()) for name in ("killed", "whole")]
    assert lines[0]["measures"] == lines[1]["measures"]
    capsys.readouterr()
    command.main(["compare", str(folder / "killed"), str(folder / "whole")])
    said = capsys.readouterr().out
    assert "+0.00" in said
    assert "unclear" in said


def test_mistakes_are_one_line(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="no task 'mmbench'"):
        command.main([*arguments(folder, "x"), "--task", "mmbench"])
    with pytest.raises(OlaError, match="task records: no prompt 'vlmevalkit'; it has ola"):
        command.main(arguments(folder, "x", "--prompt", "vlmevalkit"))
    with pytest.raises(OlaError, match="a judge needs both --judge-url and --judge-model"):
        command.main(arguments(folder, "x", "--judge-model", "gpt"))
    judge = ("--judge-url", "http://x", "--judge-model", "m", "--judge-key-file", str(tmp_path / "none"))
    with pytest.raises(OlaError, match="the judge's key cannot be read"):
        command.main(arguments(folder, "x", *judge))
    with pytest.raises(OlaError, match=r"results\.json"):
        command.main(["compare", str(tmp_path), str(tmp_path)])
    with pytest.raises(OlaError, match="decode_workers is 0"):
        command.main(arguments(folder, "x", "--decode-workers", "0"))
