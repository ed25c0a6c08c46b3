"""kill -9 at random moments, again and again: the run is resumed as if nothing had happened."""

import json
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest

import ola_jax
from tests.test_train import config_file, train

KILLS = 20
STEPS = 300  # of a stage
STAGES = ("0_text", "1_image_tune")
OVERRIDES = (
    f"--config.stages.0.steps={STEPS}",
    f"--config.stages.1.steps={STEPS}",
    "--config.checkpoint.save_every=5",
    "--config.data.cache_samples=False",  # so that processes build rows ahead
    "--config.data.workers=2",
)
WITHOUT_TASKS = """
prepare_all = prepare

def prepare(config):
    return dataclasses.replace(prepare_all(config), tasks=())
"""


def run_of(folder: pathlib.Path, output: str) -> list[str]:
    """The command of a run; its losses are what is compared, so no questions are asked."""
    file = config_file(folder, output)
    file.write_text(file.read_text() + WITHOUT_TASKS)
    return train(file, *OVERRIDES)


def losses(output: pathlib.Path) -> dict[tuple[str, int], float]:
    """The loss of every step; steps that were done twice must have had the same loss both times."""
    found: dict[tuple[str, int], float] = {}
    for stage in STAGES:
        file = output / stage / "metrics.jsonl"
        for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
            if line.endswith("\n"):  # the kill may have cut off the last one
                values = json.loads(line)
                if "loss" in values:
                    assert found.setdefault((stage, values["step"]), values["loss"]) == values["loss"], values
    return found


def run_until(
    command: list[str], reached: Callable[[], bool], delay: float = 0.0, seconds: float = 600.0
) -> float:
    """Start a run, and kill -9 it `delay` after `reached` or `seconds` after its start; the time it ran."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not reached() and time.monotonic() < begin + seconds:
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    out = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, f"the run ended before it was killed: {out}"
    return time.monotonic() - begin


@pytest.mark.slow
def test_a_run_killed_twenty_times_has_the_losses_of_one_that_was_not(tmp_path: pathlib.Path) -> None:
    complete, killed = run_of(tmp_path, "complete"), run_of(tmp_path, "killed")
    done = subprocess.run(complete, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = losses(tmp_path / "complete")
    assert len(expected) == len(STAGES) * STEPS

    random = np.random.default_rng(0)
    so_far = lambda: len(losses(tmp_path / "killed"))
    startup = run_until(killed, lambda: so_far() > 0)
    for number in range(1, KILLS):
        steps = so_far() + random.integers(1, STEPS // 10)
        reached = lambda steps=steps: so_far() >= steps
        if number % 4 == 0:  # somewhere while it imports, restores and compiles
            run_until(killed, reached, seconds=random.uniform(0.0, startup))
        else:
            run_until(killed, reached, delay=random.uniform(0.0, 0.1))

    again = subprocess.run(killed, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert losses(tmp_path / "killed") == expected
    for stage in STAGES:
        _, one = ola_jax.load(tmp_path / "complete" / stage / "model")
        _, other = ola_jax.load(tmp_path / "killed" / stage / "model")
        jax.tree.map(np.testing.assert_array_equal, other, one)
    assert not list((tmp_path / "killed").rglob("*.damaged"))
