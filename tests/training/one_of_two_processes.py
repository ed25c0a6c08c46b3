"""Run by test_processes.py, twice: python one_of_two_processes.py PORT PROCESS FOLDER."""

import json
import pathlib
import sys
import unittest.mock

import jax
import numpy as np

from ola_jax import checkpoint, sharding
from ola_jax.config import ProcessorConfig
from ola_jax.models.ola import Ola
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state, stored
from ola_jax.training.checkpoint import TrainCheckpoints
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import TrainState
from ola_jax.training.step import make_train_step
from tests import tiny

TRAINABLE = ("llm/", "vision_projector/", "speech_projector/")
STEPS = 5  # as many as the test compares with


def main(port: str, process: int, folder: pathlib.Path) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    tx = optimizer.build(OptimizerConfig(learning_rate=1e-3, warmup_ratio=0.0, eps=1e-4), steps=10)
    abstract, shardings = state.abstract_state(tiny.CONFIG, TRAINABLE, tx, mesh=mesh)
    train_state = state.create(tiny.params(), TRAINABLE, tx, shardings=shardings)
    step = make_train_step(Ola(tiny.CONFIG), tx, shardings=shardings)
    part, parts = sharding.rows_of_process(mesh, process)
    assert (part, parts) == (process, 2)
    losses = []
    with jax.set_mesh(mesh):
        for seed in range(STEPS):
            mine = jax.tree.map(lambda x: np.split(x, parts)[part], tiny.make_batch(8, seed))
            train_state, metrics = step(train_state, sharding.global_batch(mine, mesh))
            losses.append(float(metrics["loss"]))

    checkpoints = TrainCheckpoints(folder / "checkpoints")
    checkpoints.save(train_state, {"at": [process] * (1 + process)})
    checkpoints.save(train_state.replace(step=train_state.step + 1), {"at": "later"})
    checkpoints.close()

    def damaged_for_one(path: pathlib.Path, *arguments: object) -> TrainState:
        """The newest checkpoint cannot be read by the second process."""
        if process == 1 and path.parent.name == str(STEPS + 1):
            raise ValueError("cannot be decompressed")
        return stored.read_state(path, *arguments)

    with unittest.mock.patch("ola_jax.training.checkpoint.read_state", damaged_for_one):
        restored, data = TrainCheckpoints(folder / "checkpoints").restore(abstract, shardings)
    assert int(restored.step) == STEPS
    assert (folder / "checkpoints" / f"{STEPS + 1}.damaged").is_dir()
    assert data == [{"at": [each] * (1 + each)} for each in range(2)]
    for path, value in restored.trainable.items():
        for mine, saved in zip(
            value.addressable_shards, train_state.trainable[path].addressable_shards, strict=True
        ):
            np.testing.assert_array_equal(mine.data, saved.data)

    tokenizer = pathlib.Path(__file__).parents[1] / "goldens" / "visible" / "hf"
    checkpoint.save(
        folder / "model",
        config=tiny.CONFIG,
        processor_config=ProcessorConfig(),
        params=train_state.params,
        tokenizer_dir=tokenizer,
        generation_config={},
    )
    (folder / f"losses{process}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
