"""train.py as a user runs it: stages, evaluation, stopping and resuming."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import ola_jax

REPOSITORY = pathlib.Path(__file__).parent.parent

# The demo's config, smaller still: two stages of a few steps on a fiftieth of the data.
CONFIG = """
import dataclasses
import importlib.util
from ola_jax.batch import Budget
from ola_jax.training.config import CheckpointConfig, EvaluationConfig
spec = importlib.util.spec_from_file_location("digits_omni", {demo!r})
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)

def get_config():
    config = demo.get_config({output!r})
    small = Budget(tokens=128, windows=2, window_patches=64)
    stages = [dataclasses.replace(config.stages[i], steps=6, rows=2, budget=small) for i in (0, 2)]
    return dataclasses.replace(
        config,
        stages=tuple(stages),
        tasks=config.tasks[:2],
        checkpoint=CheckpointConfig(save_every=2),
        evaluation=EvaluationConfig(limit=4),
    )

def prepare(config):
    return demo.prepare(config, scale=0.02)
"""


def config_file(folder: pathlib.Path, output: str) -> pathlib.Path:
    file = folder / f"{output}.py"
    demo = str(REPOSITORY / "configs" / "digits_omni.py")
    file.write_text(CONFIG.format(demo=demo, output=str(folder / output)))
    return file


def train(file: pathlib.Path, *overrides: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "train.py"), f"--config={file}", *overrides]


def test_a_run_that_was_stopped_ends_with_the_parameters_of_one_that_was_not(tmp_path: pathlib.Path) -> None:
    complete = config_file(tmp_path, "complete")
    done = subprocess.run(train(complete), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1_image_tune/model" in done.stdout.replace("\n", "")
    report = json.loads((tmp_path / "complete" / "report.json").read_text())
    assert set(report["stages"]) == {"text", "image_tune"}
    assert (tmp_path / "complete" / "report.png").stat().st_size > 10_000

    stopped = config_file(tmp_path, "stopped")
    process = subprocess.Popen(train(stopped), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "stopped" / "0_text" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate()
    assert process.returncode == 130, out + errors
    assert "rerun the same command to resume" in out
    again = subprocess.run(train(stopped), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr

    _, expected = ola_jax.load(tmp_path / "complete" / "1_image_tune" / "model")
    _, actual = ola_jax.load(tmp_path / "stopped" / "1_image_tune" / "model")
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config=FILE"),
        (["--config=none.py"], "none.py: no such config file"),
        (["--config=train.py"], "train.py: defines no get_config()"),
        (["--config=configs/digits_omni.py", "--steps=3"], "--config.FIELD=VALUE"),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_line(arguments: list[str], expected: str) -> None:
    command = [sys.executable, "train.py", *arguments]
    out = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (out.returncode, out.stderr.count("\n")) == (2, 1), out.stderr
    assert expected in out.stderr


def test_an_unknown_field_is_an_error_that_suggests_the_right_one() -> None:
    command = [
        sys.executable,
        "train.py",
        "--config=configs/digits_omni.py",
        "--config.checkpoint.save_evry=3",
    ]
    out = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert "--checkpoint.save-every" in out.stderr + out.stdout
