"""Two real processes, each with its own rows, against one process with all."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from ola_jax import checkpoint, sharding
from ola_jax.sharding import MeshConfig
from ola_jax.training import state
from tests import tiny
from tests.training.test_sharded_step import five_steps

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

    figures, trainable = five_steps(MeshConfig())
    for number in range(2):
        losses = json.loads((tmp_path / f"losses{number}.json").read_text())
        np.testing.assert_allclose(losses, figures[:, 0], rtol=1e-5)

    config, params = checkpoint.load(tmp_path / "model")
    assert config == tiny.CONFIG
    before = state.split_params(tiny.params(), (".*",))[0]
    for path, value in state.split_params(params, (".*",))[0].items():
        one = np.asarray((before | trainable)[path])
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
