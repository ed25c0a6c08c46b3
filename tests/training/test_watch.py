"""The figures that a run reports, and what it does with bad steps, as train.py runs a stage."""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ola_jax import hardware, sharding
from ola_jax.data.pipeline import TrainIterator, make_train_iterator
from ola_jax.errors import OlaError
from ola_jax.models.ola import Ola, init_params
from ola_jax.run import loop
from ola_jax.run.inputs import load_processor
from ola_jax.run.loop import train_stage
from ola_jax.sharding import MeshConfig
from ola_jax.training import flops, health, measures, optimizer, state
from ola_jax.training.config import BadStepsConfig, TrainConfig
from ola_jax.training.measures import Compilations
from ola_jax.training.step import make_train_step
from ola_jax.training.watch import Watch
from ola_jax.typing import Params
from tests.training import tiny_run
from tests.training.test_settings import changed

REPOSITORY = pathlib.Path(__file__).parents[2]


class Never:
    """Nobody asks the run to stop."""

    status = 0

    def reached(self) -> bool:
        return False


def run_stage(config: TrainConfig) -> Params:
    processor, generation = load_processor(config)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        return jax.tree.map(
            np.asarray, train_stage(config, 0, processor, generation=generation, mesh=mesh, stop=Never())
        )


def lines(config: TrainConfig, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    text = (pathlib.Path(config.output) / "0_tune" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def iterator(config: TrainConfig) -> TrainIterator:
    """The batches that the stage is trained on."""
    stage = config.stages[0]
    processor, _ = load_processor(config)
    return make_train_iterator(
        stage.sources,
        processor,
        stage.budget,
        batch_rows=stage.rows,
        seed=config.seed,
        max_skipped=config.data.max_skipped,
    )


def test_the_figures_of_every_step_are_written(tmp_path: pathlib.Path) -> None:
    config = tiny_run.get_config(str(tmp_path))
    records = json.loads((tmp_path / "train.json").read_text())
    records[2]["audio"] = "missing.wav"
    (tmp_path / "train.json").write_text(json.dumps(records))
    config = changed(changed(config, "data.max_skipped", 1), "logging.tensorboard", True)
    run_stage(config)
    found = lines(config)
    assert [line["step"] for line in found] == list(range(1, 11))
    batches = list(itertools.islice(iterator(config), 10))
    schedule = optimizer.schedule(config.stages[0].optimizer, 10)
    for line, batch in zip(found, batches, strict=True):
        share = float(schedule(line["step"] - 1))
        rates = {"speech_projector": 3e-3, "llm/lowest": 1e-3, "llm/highest": 2e-3}
        for name, peak in rates.items():
            assert line[f"learning_rate/{name}"] == pytest.approx(share * peak)
        assert {f"utilization/{name}": share for name, share in batch.utilization.items()} == {
            name: value for name, value in line.items() if name.startswith("utilization/")
        }
        assert line["tokens"] == (batch.batch.segments > 0).sum()
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["step_seconds"])
        assert line.get("skipped/missing_file", 0) == batch.skipped.get("missing file", 0)
        parts = [line[f"grad_norm/{part}"] for part in ("llm", "speech_projector")]
        assert np.hypot(*parts) == pytest.approx(line["grad_norm"], rel=1e-5)
        assert line["data_seconds"] >= 0  # the wait may overlap with the previous step
        assert line["step_seconds"] > 0
        assert line["recompilations"] == 0
        assert not [name for name in line if name.startswith(("mfu", "memory"))]  # a CPU reports nothing
    assert found[-1]["skipped/missing_file"] == 1
    assert ["compile_seconds" in line for line in found] == [True] + [False] * 9
    assert found[-1]["seconds"] >= sum(line["step_seconds"] for line in found) * 0.99
    assert list((tmp_path / "0_tune" / "tensorboard").iterdir())


def test_the_use_of_the_chips_is_reported_for_llm_and_encoders_separately(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hardware.CHIPS, "cpu", hardware.Chip("cpu", 1e9, 1.0, 1.0, 1.0))
    config = tiny_run.get_config(str(tmp_path))
    (stage,) = config.stages
    config = dataclasses.replace(config, stages=(dataclasses.replace(stage, steps=2),))
    run_stage(config)
    by_part = flops.count_step(config.model, stage.budget, rows=stage.rows, trainable=stage.trainable)
    for line in lines(config):
        assert line["mfu/llm"] * line["step_seconds"] * 1e9 == pytest.approx(by_part["llm"])
        encoders = by_part["whisper"] + by_part["speech_projector"]
        assert line["mfu/encoders"] * line["step_seconds"] * 1e9 == pytest.approx(encoders)


def test_memory_is_that_of_the_fullest_device_where_the_backend_reports_it() -> None:
    class Device:
        def __init__(self, stats: dict | None) -> None:
            self.memory_stats = lambda: stats

    some = [Device({"bytes_in_use": n, "peak_bytes_in_use": 10 - n}) for n in (3, 5)]
    assert measures.memory(some) == {"memory/in_use": 5, "memory/peak": 7}
    assert measures.memory([Device(None)]) == {}
    assert measures.memory([Device({"bytes_in_use": 4})]) == {"memory/in_use": 4}


def started(config: TrainConfig) -> tuple[Mesh, state.TrainState, Any]:
    """A state and a step of the config's stage."""
    (stage,) = config.stages
    mesh = sharding.make_mesh(config.mesh)
    tx = optimizer.build(stage.optimizer, stage.steps)
    _, shardings = state.abstract_state(config.model, stage.trainable, tx, mesh=mesh)
    train_state = state.create(
        init_params(config.model, config.seed), stage.trainable, tx, shardings=shardings
    )
    return mesh, train_state, make_train_step(Ola(config.model), tx, shardings=shardings)


def test_a_step_that_is_recompiled_is_reported_with_its_shapes(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    config = tiny_run.get_config(str(tmp_path))
    mesh, train_state, train_step = started(config)
    data = iterator(config)
    (tmp_path / "0_tune").mkdir()
    watch = Watch(config, config.stages[0], train_state, mesh=mesh, folder=tmp_path / "0_tune")
    with jax.set_mesh(mesh):
        for step in range(1, 5):
            batch = watch.take(data)
            if step == 3:
                half = jax.tree.map(lambda x: x[:1], batch.batch)
                batch = dataclasses.replace(batch, batch=half)
            train_state, metrics = train_step(train_state, sharding.global_batch(batch.batch, mesh))
            watch.step(step, metrics, batch)
    watch.flush()
    watch.close()
    data.close()
    assert [line["recompilations"] for line in lines(config)] == [0, 0, 1, 1]
    out = capsys.readouterr().out
    assert "warning: step 3 was recompiled" in out
    assert "'tokens': (1, 64)" in out.replace("\n", "")


def test_compilations_of_one_function_are_counted_until_closed() -> None:
    compilations = Compilations("train_step")

    @jax.jit
    def train_step(x: jax.Array) -> jax.Array:
        return x + 1

    for size in (3, 3, 4):
        train_step(np.zeros(size))
    jax.jit(lambda x: x * 2)(np.zeros(5))
    assert len(compilations.take()) == 2
    compilations.close()
    train_step(np.zeros(6))
    assert compilations.take() == []


def without_the_bad_batch(config: TrainConfig) -> tuple[Params, list[int]]:
    """The stage's steps, one by one, but for those whose batch holds the poisoned record; which these are."""
    (stage,) = config.stages
    mesh, train_state, train_step = started(config)
    left_out = []
    data = iterator(config)
    with jax.set_mesh(mesh):
        for step in range(1, stage.steps + 1):
            batch = next(data)
            if any(record.index == tiny_run.LOUD for row in batch.record_ids for record in row):
                left_out.append(step)
            else:
                train_state, _ = train_step(train_state, sharding.global_batch(batch.batch, mesh))
    data.close()
    return jax.tree.map(np.asarray, train_state.params), left_out


def test_a_run_that_skips_bad_batches_is_one_without_them(tmp_path: pathlib.Path) -> None:
    config = tiny_run.get_config(str(tmp_path))
    tiny_run.poison(tmp_path)
    config = dataclasses.replace(config, bad_steps=BadStepsConfig(action="skip"))
    params = run_stage(config)
    expected, left_out = without_the_bad_batch(config)
    assert left_out
    assert 1 < left_out[0] < 10
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    bad = lines(config, "bad_batches.jsonl")
    assert [line["step"] for line in bad] == left_out
    for line in bad:
        assert line["loss"] is None
        source = str(tmp_path / "train.json")
        poisoned = {"source": source, "index": tiny_run.LOUD, "id": f"train{tiny_run.LOUD}"}
        assert poisoned in itertools.chain(*line["records"])
    counts = [line["bad_steps"] for line in lines(config)]
    assert counts == [sum(step <= at for step in left_out) for at in range(1, 11)]
    # The learning rate is that of the updates that were made.
    schedule = optimizer.schedule(config.stages[0].optimizer, 10)
    for line, count in zip(lines(config), [0, *counts], strict=False):
        rate = 3e-3 * float(schedule(line["step"] - 1 - count))
        assert line["learning_rate/speech_projector"] == pytest.approx(rate)


def test_more_bad_steps_than_allowed_end_the_run_and_it_resumes_from_there(tmp_path: pathlib.Path) -> None:
    config = tiny_run.get_config(str(tmp_path))
    tiny_run.poison(tmp_path)
    few = dataclasses.replace(config, bad_steps=BadStepsConfig(action="skip", max_skipped=0))
    with pytest.raises(OlaError, match=r"step \d+: loss nan.* number 1, at most 0 .*saved at step"):
        run_stage(few)
    params = run_stage(dataclasses.replace(config, bad_steps=BadStepsConfig(action="skip")))
    expected, left_out = without_the_bad_batch(config)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert [line["step"] for line in lines(config)] == list(range(1, 11))
    assert [line["step"] for line in lines(config, "bad_batches.jsonl")] == left_out


def test_a_bad_step_ends_the_run_with_one_line_and_a_good_state_saved(tmp_path: pathlib.Path) -> None:
    config = tiny_run.get_config(str(tmp_path))
    tiny_run.poison(tmp_path)
    file = pathlib.Path(tiny_run.__file__)
    command = [
        sys.executable,
        "train.py",
        f"--config={file}:{tmp_path}",
        "--config.checkpoint.save_every=100",
    ]
    out = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (out.returncode, out.stderr.count("\n")) == (2, 1), out.stdout + out.stderr
    (bad,) = lines(config, "bad_batches.jsonl")
    assert f"error: step {bad['step']}: loss nan" in out.stderr
    assert f"bad_batches.jsonl; saved at step {bad['step'] + 1}" in out.stderr
    assert f"train{tiny_run.LOUD}" in [r["id"] for r in itertools.chain(*bad["records"])]
    saved = pathlib.Path(config.output) / "0_tune" / "checkpoints"
    assert max(int(folder.name) for folder in saved.iterdir()) == bad["step"] + 1
    params = run_stage(dataclasses.replace(config, bad_steps=BadStepsConfig(action="skip")))
    expected, _ = without_the_bad_batch(config)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_step_without_labelled_tokens_is_reported_as_one(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    config = tiny_run.get_config(str(tmp_path))
    (tmp_path / "0_tune").mkdir()
    now = state.TrainState(
        step=0,
        trainable={"llm/norm/scale": 0},
        adapters={},
        frozen={},
        opt_state=(),
        health=health.init_health(),
    )
    data, mesh = iterator(config), sharding.make_mesh(config.mesh)
    watch = Watch(config, config.stages[0], now, mesh=mesh, folder=tmp_path / "0_tune")
    figures = {"loss": np.nan, "grad_norm": 0.0, "targets": 0, "tokens": 5, "bad_step": True, "bad_steps": 1}
    watch.step(1, jax.tree.map(jax.numpy.asarray, figures), watch.take(data))
    watch.flush()
    watch.close()
    data.close()
    assert watch.failed.startswith("step 1: no labelled token in the batch; its records are in ")
    out = capsys.readouterr().out
    assert "warning: step 1: no labelled token in the batch: its update is skipped" in out
    assert "loss 0" not in out
    (bad,) = lines(config, "bad_batches.jsonl")
    assert (bad["reason"], bad["loss"], bad["targets"]) == ("no labelled token in the batch", None, 0)
    assert lines(config)[0]["loss"] is None


def test_a_hidden_transfer_within_a_step_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one to the device: of those to the host JAX knows nothing on a CPU."""
    config = tiny_run.get_config(str(tmp_path))
    step = jax.jit(lambda state, batch: (state, {"loss": batch.tokens.sum()}))
    monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: step)
    monkeypatch.setattr(sharding, "global_batch", lambda batch, _: batch)  # arrays of the host
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run_stage(config)


def test_a_killed_run_leaves_figures_that_are_continued(tmp_path: pathlib.Path) -> None:
    """Lines beyond the checkpoint from which a run is resumed are written again."""
    config = tiny_run.get_config(str(tmp_path / "killed"))
    complete = tiny_run.get_config(str(tmp_path / "complete"))
    expected = run_stage(complete)

    class Killed(Exception):
        pass

    class Kill(Never):
        def __init__(self) -> None:
            self.asked = 0

        def reached(self) -> bool:
            self.asked += 1
            if self.asked == 7:
                raise Killed
            return False

    processor, generation = load_processor(config)
    mesh = sharding.make_mesh(MeshConfig())
    with jax.set_mesh(mesh), pytest.raises(Killed):
        train_stage(config, 0, processor, generation=generation, mesh=mesh, stop=Kill())
    assert [line["step"] for line in lines(config)] == [1, 2, 3, 4, 5, 6]
    jax.tree.map(np.testing.assert_array_equal, run_stage(config), expected)
    same = lambda line: (line["step"], line["loss"], line["grad_norm"], line["tokens"])
    assert list(map(same, lines(config))) == list(map(same, lines(complete)))
