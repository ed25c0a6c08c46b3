"""Whole runs that are run again: what is finished stays, what is incomplete is written again."""

import dataclasses
import errno
import json
import pathlib
import shutil
import signal
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from ola_jax import checkpoint
from ola_jax.errors import OlaError
from ola_jax.run import loop, scores, stages
from ola_jax.run.stages import train
from ola_jax.training import stage_settings
from ola_jax.training.config import CheckpointConfig, EvaluationConfig, TrainConfig
from ola_jax.training.finished import is_finished
from ola_jax.training.start import stage_folder
from tests.training import tiny_run
from tests.training.test_settings import changed

STEPS = 3


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Those of the test process are given back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of two stages, finished; to be copied."""
    config = tiny_run.get_config(str(tmp_path_factory.mktemp("done")))
    (stage,) = config.stages
    stages = [dataclasses.replace(stage, name=name, steps=STEPS) for name in ("one", "two")]
    config = dataclasses.replace(config, stages=tuple(stages), checkpoint=CheckpointConfig(save_every=100))
    train(config)
    return config


@pytest.fixture
def config(done: TrainConfig, tmp_path: pathlib.Path) -> TrainConfig:
    """Its copy at another place."""
    shutil.copytree(done.output, tmp_path, dirs_exist_ok=True)
    return dataclasses.replace(done, output=str(tmp_path))


def model(config: TrainConfig, number: int) -> pathlib.Path:
    return stage_folder(config, number) / "model"


def same(one: pathlib.Path, other: pathlib.Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(one)[1], checkpoint.load(other)[1])


def steps_of(config: TrainConfig, number: int) -> list[int]:
    file = stage_folder(config, number) / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def printed(capsys: pytest.CaptureFixture) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_the_last_step_is_saved_and_what_it_began_with_is_kept(config: TrainConfig) -> None:
    for number in (0, 1):
        assert stage_settings.last_step(stage_folder(config, number)) == STEPS
    began = stage_settings.read(stage_folder(config, 1))
    assert began["init_from"]["path"] == "0_one"
    assert began["sources"][0]["sha256"]


def test_a_finished_run_says_that_nothing_was_trained(
    config: TrainConfig, capsys: pytest.CaptureFixture
) -> None:
    train(config)
    out = printed(capsys)
    assert "nothing was trained: finished before this run: one, two" in out
    assert "has no effect" not in out


def test_a_finished_stage_stays_where_its_rate_is_changed_and_the_next_is_resumed_with_a_new_one(
    config: TrainConfig, capsys: pytest.CaptureFixture
) -> None:
    """The second stage is not finished: it has a checkpoint, and steps left."""
    shutil.rmtree(model(config, 1))
    for number, rate in ((0, 5e-3), (1, 7e-3)):
        config = changed(config, f"stages.{number}.optimizer.learning_rate", rate)
    config = changed(config, "stages.1.steps", STEPS + 2)
    train(config)
    out = printed(capsys)
    assert "optimizer.learning_rate: 0.003 -> 0.005 has no effect: the stage is finished" in out
    assert f"optimizer.learning_rate: 0.003 -> 0.007, from step {STEPS + 1} on" in out
    assert f"steps: {STEPS} -> {STEPS + 2}, from step {STEPS + 1} on" in out
    assert "finished before this run: one done" in out
    assert steps_of(config, 1) == list(range(1, STEPS + 3))
    kept = json.loads((stage_folder(config, 1) / stage_settings.FILE).read_text())
    assert kept["changes"][0]["optimizer.learning_rate"] == [0.003, 0.007]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", 1, "0_one: the stage is finished, and began with other settings: seed: 0 -> 1"),
        ("model.llm.rope_theta", 1e4, "model.llm.rope_theta: 1000000.0 -> 10000.0"),
    ],
)
def test_a_finished_stage_of_another_model_is_refused(
    config: TrainConfig, path: str, value: object, expected: str
) -> None:
    with pytest.raises(OlaError) as caught:
        train(changed(config, path, value))
    assert expected in str(caught.value)


def test_a_stage_that_is_trained_again_in_another_way_is_refused_where_a_later_one_began_with_it(
    config: TrainConfig, done: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is trained. In the same way it may be: it ends with the same parameters."""
    shutil.rmtree(stage_folder(config, 0))
    other = changed(config, "stages.0.optimizer.learning_rate", 1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_stage", None)
        with pytest.raises(OlaError, match=r"1_two: the stage is finished, and .*: init_from: other content"):
            train(other)
    train(config)
    same(model(config, 0), model(done, 0))
    assert steps_of(config, 1) == list(range(1, STEPS + 1))


def test_a_model_written_again_is_what_the_next_stage_began_with(
    config: TrainConfig, capsys: pytest.CaptureFixture
) -> None:
    """Also where the rate was changed since: it has no effect."""
    shutil.rmtree(model(config, 0))
    train(changed(config, "stages.0.optimizer.learning_rate", 1e-9))
    out = printed(capsys)
    assert "optimizer.learning_rate: 0.003 -> 1e-09 has no effect: all steps are done" in out
    assert "finished before this run: two" in out


@pytest.mark.parametrize("damage", ["gone", "empty", "no config", "cut off", "no tokenizer"])
def test_an_incomplete_model_is_written_again_from_the_checkpoint(
    config: TrainConfig, done: TrainConfig, damage: str
) -> None:
    folder = model(config, 1)
    if damage in ("gone", "empty"):
        shutil.rmtree(folder)
    if damage == "empty":
        folder.mkdir()
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "no tokenizer":
        shutil.rmtree(folder / "tokenizer")
    if damage == "cut off":
        file = max((folder / "params").rglob("*"), key=lambda file: file.is_file() and file.stat().st_size)
        file.write_bytes(file.read_bytes()[:-1])
    train(config)
    same(folder, model(done, 1))
    assert steps_of(config, 1) == list(range(1, STEPS + 1))  # nothing was trained again


def test_an_incomplete_model_that_cannot_be_written_again_is_an_error(config: TrainConfig) -> None:
    folder = stage_folder(config, 1)
    (folder / "model" / "config.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(OlaError, match="there is no checkpoint to write the model from"):
        train(config)


def test_what_training_did_not_write_is_never_removed(config: TrainConfig) -> None:
    folder = stage_folder(config, 1)
    (folder / "model" / "config.json").unlink()
    (folder / "model" / "notes.txt").write_text("mine")
    with pytest.raises(OlaError, match=r"holds 'notes\.txt', which training did not write"):
        is_finished(folder)
    shutil.rmtree(folder / "model")
    (folder / "model").write_text("a file")
    with pytest.raises(OlaError, match="found a file"):
        is_finished(folder)


def test_a_model_of_a_later_version_is_not_written_over(config: TrainConfig) -> None:
    file = model(config, 1) / "config.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(OlaError, match="found version 99"):
        is_finished(stage_folder(config, 1))


def test_a_full_disk_at_the_model_loses_nothing(
    config: TrainConfig, done: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(stage_folder(config, 1))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(OlaError, match=r"No space left on device\); the trained state is saved"):
            train(config)
    assert stage_settings.last_step(stage_folder(config, 1)) == STEPS
    monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: None)  # no step is left
    train(config)
    same(model(config, 1), model(done, 1))


def test_the_best_model_is_written_again_from_the_best_checkpoint(
    config: TrainConfig, capsys: pytest.CaptureFixture
) -> None:
    best = dataclasses.replace(
        config,
        checkpoint=CheckpointConfig(keep=1, keep_best=1, final_model="best"),
        evaluation=EvaluationConfig(every=1),
        output=config.output + "/best",
    )
    best = dataclasses.replace(best, stages=best.stages[:1])
    train(best)
    first = pathlib.Path(best.output) / "kept"
    shutil.copytree(model(best, 0), first)
    (model(best, 0) / "config.json").unlink()
    capsys.readouterr()
    train(best)
    assert "the model is that of step" in printed(capsys)
    same(model(best, 0), first)


def test_what_was_opened_is_closed_where_the_next_thing_fails(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    made = loop.make_train_iterator

    def make(*arguments: object, **options: object) -> object:
        iterator = made(*arguments, **options)
        close = iterator.close
        monkeypatch.setattr(iterator, "close", lambda: (closed.append("data"), close()))
        return iterator

    def fail(*_: object, **__: object) -> None:
        raise OlaError("cannot be opened")

    monkeypatch.setattr(loop, "make_train_iterator", make)
    monkeypatch.setattr(loop, "TrainCheckpoints", fail)
    shutil.rmtree(stage_folder(config, 1))
    with pytest.raises(OlaError, match="cannot be opened"):
        train(config)
    assert closed == ["data"]


def test_accuracies_that_were_half_written_are_found_again(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run.with_tasks(config)
    found = {"numbers": {"accuracy": 0.5}}
    monkeypatch.setattr(scores, "evaluate", lambda *_: found)
    folder = stage_folder(config, 0)
    for text in ("", "[]", '{"other": {"accuracy": 1.0}}'):
        (folder / "accuracy.json").write_text(text)
        assert scores.score_stage(config, folder, None) == found
    monkeypatch.setattr(scores, "evaluate", None)
    assert scores.score_stage(config, folder, None) == found
