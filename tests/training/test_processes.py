"""Two real processes, each with its own rows, against one process with all."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from ola_jax import checkpoint, sharding
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.step import make_train_step
from tests import tiny
from tests.training.one_of_two_processes import STEPS, TRAINABLE

REPOSITORY = pathlib.Path(__file__).parents[2]


def test_two_processes_train_and_save_what_one_would(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.one_of_two_processes", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(tmp_path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)

    tx = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0, eps=1e-4), steps=10)
    mesh = sharding.make_mesh(MeshConfig())
    _, shardings = state.abstract_state(tiny.CONFIG, TRAINABLE, tx, mesh)
    train_state = state.create(tiny.params(), TRAINABLE, tx, shardings=shardings)
    step = make_train_step(Ola(tiny.CONFIG), tx, shardings=shardings)
    expected = []
    for seed in range(STEPS):
        train_state, metrics = step(train_state, sharding.global_batch(tiny.make_batch(8, seed), mesh))
        expected.append(float(metrics["loss"]))
    for number in range(2):
        losses = json.loads((tmp_path / f"losses{number}.json").read_text())
        np.testing.assert_allclose(losses, expected, rtol=1e-5)

    config, params = checkpoint.load(tmp_path / "model")
    assert config == tiny.CONFIG
    for path, value in state.split_params(params, (".*",))[0].items():
        one = np.asarray((train_state.trainable | train_state.frozen)[path])
        np.testing.assert_allclose(value, one, atol=1e-5 * np.abs(one).max(), rtol=0, err_msg=path)
    assert not list(tmp_path.glob(".model*"))


def test_processes_that_share_rows_read_the_same_part() -> None:
    class Device:
        def __init__(self, number: int) -> None:
            self.process_index = number // 2

    def parts(**sizes: int) -> list[tuple[int, int]]:
        mesh = jax.sharding.Mesh(
            np.array([Device(i) for i in range(8)], dtype=object).reshape(
                [sizes.get(axis, 1) for axis in sharding.AXES]
            ),
            sharding.AXES,
        )
        return [sharding.rows_of_process(mesh, process) for process in range(4)]

    assert parts(fsdp=8) == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert parts(fsdp=2, context=4) == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert parts(tensor=8) == [(0, 1)] * 4
