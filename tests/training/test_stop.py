"""Stopping a run of two real processes when one of them alone gets a signal."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from ola_jax.training.config import EvaluationConfig
from ola_jax.training.stop import StopRequest
from tests.eval.test_during_training import evaluated
from tests.training import tiny_run

REPOSITORY = pathlib.Path(__file__).parents[2]


def start(folder: pathlib.Path, steps: int) -> list[subprocess.Popen]:
    """train.py in two processes, a device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    file = pathlib.Path(tiny_run.__file__)
    overrides = {
        "mesh.fsdp": 2,
        "distributed.enabled": True,
        "distributed.coordinator": f"localhost:{port}",
        "distributed.process_count": 2,
        "stages.0.steps": steps,
        "checkpoint.save_every": 100_000,
        "evaluation.every": 100_000,
        "evaluation.batches": 6,
        "checkpoint.keep_best": 1,
    }
    command = [sys.executable, "train.py", f"--config={file}:{folder}"]
    command += [f"--config.{name}={value}" for name, value in overrides.items()]
    return [
        subprocess.Popen(
            [*command, f"--config.distributed.process_id={number}"],
            cwd=REPOSITORY,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def written(file: pathlib.Path) -> list[dict]:
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize(
    ("number", "sent"), [(1, signal.SIGTERM), pytest.param(0, signal.SIGINT, marks=pytest.mark.slow)]
)
def test_all_processes_stop_after_the_same_step_and_resume_from_there(
    tmp_path: pathlib.Path, number: int, sent: signal.Signals
) -> None:
    tiny_run.get_config(str(tmp_path))  # writes the records
    metrics = tmp_path / "0_tune" / "metrics.jsonl"
    processes = start(tmp_path, 10_000)
    while all(p.poll() is None for p in processes) and len(written(metrics)) < 3:
        time.sleep(0.05)
    processes[number].send_signal(sent)
    outputs = [process.communicate()[0] for process in processes]
    assert [p.returncode for p in processes] == [128 + signal.SIGTERM] * 2, "\n".join(outputs)
    (first,), (second,) = (re.findall(r"stopped at step (\d+) and saved", out) for out in outputs)
    step = int(first)
    assert first == second
    assert [int(f.name) for f in (tmp_path / "0_tune" / "checkpoints").iterdir()] == [step]
    assert [line["step"] for line in written(metrics)] == list(range(1, step + 1))
    if sent == signal.SIGINT:
        return
    processes = start(tmp_path, step + 2)
    outputs = [process.communicate()[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    assert f"resuming at step {step}" in outputs[0].replace("\n", " ")
    assert f"steps: 10000 -> {step + 2}, from step {step + 1} on" in outputs[0].replace("\n", " ")
    assert json.loads((tmp_path / "0_tune" / "settings.json").read_text())["settings"]["steps"] == step + 2
    assert not (tmp_path / ".run.json").exists()
    lines = written(metrics)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, step + 3))
    assert "eval/loss" in lines[-1]
    assert "tune" not in re.sub(r"\S*0_tune\S*|stage \d.*tune:.*", "", outputs[1])  # one progress bar


def test_the_loss_of_two_processes_is_that_of_one(tmp_path: pathlib.Path) -> None:
    """After a step whose learning rate is zero, parameters are those at the start."""
    config = tiny_run.get_config(str(tmp_path))
    processes = start(tmp_path, 1)
    outputs = [process.communicate()[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    (line,) = (of for of in written(tmp_path / "0_tune" / "metrics.jsonl") if "eval/loss" in of)
    _, (expected, _) = evaluated(dataclasses.replace(config, evaluation=EvaluationConfig(every=1, batches=6)))
    assert line["eval/loss"] == pytest.approx(expected["eval/loss"], rel=1e-5)


def test_one_process_notes_a_signal_and_a_second_one_ends_it() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        said: list[str] = []
        stop = StopRequest(said.append)
        assert not stop.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reached()
        assert (stop.status, len(said)) == (143, 1)
        with pytest.raises(SystemExit, match="130"):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    assert jax.process_count() == 1
