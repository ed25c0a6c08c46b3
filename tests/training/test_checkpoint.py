import dataclasses
import errno
import functools
import gc
import logging
import pathlib
import resource
import shutil

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ola_jax import sharding
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.checkpoint import TrainCheckpoints, is_training_checkpoint, restore_params
from ola_jax.training.lora import Adapter
from ola_jax.training.optimizer import OptimizerConfig
from ola_jax.training.state import TrainState
from tests import tiny
from tests.full_disk import files_of_at_most

TX = optimizer.build(OptimizerConfig(momentum_dtype="bfloat16"), steps=10)
TRAINABLE = ("vision_projector/",)


@functools.cache
def sharded(config: MeshConfig) -> tuple[TrainState, TrainState]:
    return state.abstract_state(tiny.CONFIG, TRAINABLE, TX, mesh=sharding.make_mesh(config))


@functools.cache
def first_state() -> TrainState:
    shardings = sharded(MeshConfig(fsdp=4, tensor=2))[1]
    return state.create(tiny.params(), TRAINABLE, TX, shardings=shardings)


def saved(folder: pathlib.Path, steps: int, keep: int = 2) -> TrainState:
    """Checkpoints of steps 1 to `steps`, whose parameters have the value of the step."""
    train_state = first_state()
    checkpoints = TrainCheckpoints(folder, keep=keep)
    for step in range(1, steps + 1):
        trainable = {path: x * 0 + step for path, x in train_state.trainable.items()}
        train_state = train_state.replace(step=jax.numpy.int32(step), trainable=trainable)
        checkpoints.save(train_state, {"at": step})
    checkpoints.close()
    return train_state


def test_a_state_comes_back_on_another_mesh_as_it_was(tmp_path: pathlib.Path) -> None:
    expected = saved(tmp_path, 3)
    abstract, shardings = sharded(MeshConfig(data=2, fsdp=2, context=2))
    restored, data = TrainCheckpoints(tmp_path).restore(abstract, shardings)
    assert data == [{"at": 3}]
    pairs = zip(*map(jax.tree.leaves, (restored, expected, shardings)), strict=True)
    for actual, value, place in pairs:
        assert actual.dtype == value.dtype
        assert actual.sharding.is_equivalent_to(place, actual.ndim)
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(value))


def test_as_many_checkpoints_are_kept_as_asked(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 4, keep=3)
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == [2, 3, 4]


def damage(folder: pathlib.Path) -> None:
    for file in (folder / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_taken(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 3)
    damage(tmp_path / "3")
    with caplog.at_level(logging.WARNING, "ola_jax"):
        checkpoints = TrainCheckpoints(tmp_path)
        restored, data = checkpoints.restore(*sharded(MeshConfig()))
    assert (int(restored.step), data) == (2, [{"at": 2}])
    checkpoints.save(restored.replace(step=restored.step + 1), {"at": "again"})
    checkpoints.close()
    assert {f.name for f in tmp_path.iterdir()} == {"2", "3", "3.damaged"}
    assert TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))[1] == [{"at": "again"}]
    assert f"{tmp_path / '3'}: cannot be read" in caplog.text

    damage(tmp_path / "2")
    damage(tmp_path / "3")
    with pytest.raises(OlaError, match=r"none of the checkpoints \[3, 2\] can be read"):
        TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))


def names(folder: pathlib.Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


def test_damage_of_the_same_step_twice_is_set_aside_under_another_name(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 3)
    for _ in range(3):
        damage(tmp_path / "3")
        checkpoints = TrainCheckpoints(tmp_path)
        restored, _ = checkpoints.restore(*sharded(MeshConfig()))
        assert int(restored.step) == 2
        checkpoints.save(restored.replace(step=restored.step + 1), {})
        checkpoints.close()
    assert names(tmp_path) == {"2", "3", "3.damaged", "3.damaged-2", "3.damaged-3"}


def test_any_part_that_is_damaged_or_gone_is_damage(tmp_path: pathlib.Path) -> None:
    parts = ["state/_METADATA", "data/metadata", "state/manifest.ocdbt", "state", "data"]
    harms = [(part, content) for part in parts for content in (None, b"", b"\0\0\0", b"{}")]
    saved(tmp_path, 1)
    for step, (part, content) in enumerate(harms, 2):
        shutil.copytree(tmp_path / "1", tmp_path / str(step))
        place = tmp_path / str(step) / part
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
        if content is not None:
            place.write_bytes(content)
    assert int(TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))[0].step) == 1
    assert names(tmp_path) == {"1"} | {f"{step}.damaged" for step in range(2, 2 + len(harms))}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "out of memory"),
        (ValueError("Error reading local file: [os_error_code='5']"), "Input/output error"),
        (ExceptionGroup("several", [ValueError("a"), MemoryError()]), "out of memory"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_damage_is_raised_and_nothing_is_set_aside(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    for step in ("1", "2"):
        (tmp_path / step / "data").mkdir(parents=True)
        (tmp_path / step / "data" / "metadata").write_text('{"processes": [{}]}')

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "metadata", fail)
    checkpoints = TrainCheckpoints(tmp_path)
    with pytest.raises(OlaError) as raised:
        checkpoints.restore(*sharded(MeshConfig()))
    message = f"{tmp_path}/2: cannot be read now ({reason}); nothing was changed: resolve this"
    assert str(raised.value) == f"{message}, and run the same command again"
    assert raised.value.__cause__ is error
    assert names(tmp_path) == {"1", "2"}


def test_too_many_open_files_are_no_damage(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 2)
    checkpoints, like = TrainCheckpoints(tmp_path), sharded(MeshConfig())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OlaError, match=r"2: cannot be read now \(Too many open files\)"):
            checkpoints.restore(*like)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert int(checkpoints.restore(*like)[0].step) == 2


BF16 = OptimizerConfig(momentum_dtype="bfloat16")
OTHERS = {
    "optimizer": (
        *(tiny.CONFIG, TRAINABLE, OptimizerConfig(kind="adafactor")),
        r"opt_state/1/\S+ is absent there, \w+\[.*\] in the config",
    ),
    "momentum": (
        *(tiny.CONFIG, TRAINABLE, OptimizerConfig()),
        r"opt_state/1/mu/\S+ is bfloat16\[64\] there, float32\[64\] in the config",
    ),
    "trained": (
        *(tiny.CONFIG, ("llm/",), BF16),
        r"trainable/llm/\S+ is absent there, float32\[.*\] in the config",
    ),
    "model": (
        *(dataclasses.replace(tiny.CONFIG, speech_hidden_size=32), TRAINABLE, BF16),
        r"frozen/speech_projector/linear1/bias is \[64\] there, \[32\] in the config",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_state_of_another_kind_is_no_damage_and_its_first_difference_is_named(
    tmp_path: pathlib.Path, name: str
) -> None:
    saved(tmp_path, 2)
    config, trainable, of_optimizer, message = OTHERS[name]
    mesh = sharding.make_mesh(MeshConfig())
    like = state.abstract_state(config, trainable, optimizer.build(of_optimizer, steps=10), mesh=mesh)
    with pytest.raises(OlaError, match=rf"^{tmp_path}/2: {message}"):
        TrainCheckpoints(tmp_path).restore(*like)
    assert names(tmp_path) == {"1", "2"}


# Orbax leaves the errors of other files that could not be written in tasks that it does not wait for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("size", "noticed_by"),
    [(100, "wait"), (3_000, "wait"), (300_000, "wait"), (3_000, "save"), (3_000, "close")],
)
def test_a_full_disk_is_one_line_and_earlier_checkpoints_are_kept(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture, size: int, noticed_by: str
) -> None:
    now = saved(tmp_path, 2, keep=1)
    checkpoints = TrainCheckpoints(tmp_path, keep=1)
    third = now.replace(step=jax.numpy.int32(3))
    with files_of_at_most(size):
        checkpoints.save(third, {})
        notice = {
            "wait": checkpoints.wait,
            "close": checkpoints.close,
            "save": lambda: checkpoints.save(now.replace(step=jax.numpy.int32(4)), {}),
        }
        with pytest.raises(OlaError) as raised:
            notice[noticed_by]()
    message = f"{tmp_path}: the checkpoint of step 3 cannot be written (File too large); those before it are"
    found = str(raised.value)
    assert found.startswith(message)
    assert "\n" not in found
    assert "Traceback" not in "".join(capfd.readouterr())
    assert names(tmp_path) == {"2"}
    checkpoints.close()  # says nothing more
    del raised, notice, checkpoints  # they hold those tasks, which
    gc.collect()  # must end in this test

    again = TrainCheckpoints(tmp_path, keep=1)
    assert int(again.restore(*sharded(MeshConfig()))[0].step) == 2
    again.save(third, {"at": 3})
    again.close()
    assert TrainCheckpoints(tmp_path).restore(*sharded(MeshConfig()))[1] == [{"at": 3}]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with pytest.raises(OlaError, match=rf"^{folder}: cannot hold checkpoints \(.*\); make the folder wr"):
            TrainCheckpoints(folder)


def test_what_a_killed_save_left_is_removed_and_never_restored(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    checkpoints = TrainCheckpoints(tmp_path)
    assert int(checkpoints.restore(*sharded(MeshConfig()))[0].step) == 1
    checkpoints.save(saved(tmp_path / "other", 2), {})
    checkpoints.close()
    assert names(tmp_path) == {"1", "2", "other"}


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[1]", b'{"eval/loss": "low"}', b"\xff"])
def test_a_checkpoint_with_damaged_metrics_is_restored_but_is_not_the_best(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    train_state = saved(tmp_path / "others", 1)
    checkpoints = TrainCheckpoints(tmp_path, keep_best=1)
    for step in (1, 2):
        checkpoints.save(train_state.replace(step=jax.numpy.int32(step)), {}, {"eval/loss": 1 / step})
    checkpoints.close()
    (tmp_path / "2" / "metrics" / "metrics").write_bytes(content)
    again = TrainCheckpoints(tmp_path, keep_best=1)
    assert again.best_step == 1
    assert int(again.restore(*sharded(MeshConfig()))[0].step) == 2


@pytest.mark.parametrize("of_one", [False, True])
def test_parameters_of_a_damaged_checkpoint_are_an_error_that_names_others(
    tmp_path: pathlib.Path, of_one: bool
) -> None:
    saved(tmp_path, 3, keep=3)
    damage(tmp_path / "3")
    like = nn.unbox(abstract_params(tiny.CONFIG))
    places = sharding.parameter_shardings(abstract_params(tiny.CONFIG), sharding.make_mesh(MeshConfig()))
    others = "another checkpoint" if of_one else "1, 2 beside it"
    with pytest.raises(OlaError, match=rf"^{tmp_path}/3: is damaged \(.*\); take {others}$"):
        restore_params(tmp_path / "3" if of_one else tmp_path, like, places)


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path: pathlib.Path) -> None:
    assert TrainCheckpoints(tmp_path / "none").restore(*sharded(MeshConfig())) is None


def test_the_best_are_kept_beside_the_newest(tmp_path: pathlib.Path) -> None:
    train_state = first_state()
    checkpoints = TrainCheckpoints(tmp_path, keep=1, keep_best=2)
    assert checkpoints.best_step is None
    with pytest.raises(OlaError, match="no checkpoint has 'eval/loss'"):
        checkpoints.restore_best(*sharded(MeshConfig()))
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: 4.0, 7: None}
    for step, loss in losses.items():
        now = train_state.replace(step=jax.numpy.int32(step))
        checkpoints.save(now, {}, {} if loss is None else {"eval/loss": loss, "eval/accuracy": float(step)})
    checkpoints.wait()
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == [2, 4, 7]
    checkpoints.close()

    again = TrainCheckpoints(tmp_path, keep=1, keep_best=2)  # as a run that is resumed
    assert again.best_step == 2
    assert int(again.restore_best(*sharded(MeshConfig())).step) == 2
    assert int(again.restore(*sharded(MeshConfig()))[0].step) == 7
    again.close()
    assert TrainCheckpoints(tmp_path, metric="eval/accuracy", smallest=False).best_step == 4


def test_parameters_alone_come_back_whatever_was_trained(tmp_path: pathlib.Path) -> None:
    expected = saved(tmp_path, 2)
    assert is_training_checkpoint(tmp_path)
    assert is_training_checkpoint(tmp_path / "1")
    assert not is_training_checkpoint(tmp_path / "1" / "state")
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    boxed = abstract_params(tiny.CONFIG)
    places = sharding.parameter_shardings(boxed, mesh)
    params = restore_params(tmp_path, nn.unbox(boxed), places)
    jax.tree.map(np.testing.assert_array_equal, params, expected.params)
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
    older = state.split_params(restore_params(tmp_path / "1", nn.unbox(boxed), places), TRAINABLE)[0]
    assert all((np.asarray(x) == 1).all() for x in older.values())
    # Another model, and adapters that are not part of it yet.
    other = dataclasses.replace(tiny.CONFIG, speech_hidden_size=32)
    with pytest.raises(OlaError, match=r"speech_projector/\S+ has shape \(\d+.*, the config's model \("):
        restore_params(tmp_path, nn.unbox(abstract_params(other)), places)
    adapted = expected.replace(adapters={"x": Adapter(np.zeros(2), np.zeros(2))})
    checkpoints = TrainCheckpoints(tmp_path / "lora")
    checkpoints.save(adapted, {})
    checkpoints.close()
    with pytest.raises(OlaError, match="holds adapters; take the model that the stage ended with"):
        restore_params(tmp_path / "lora", nn.unbox(boxed), places)
