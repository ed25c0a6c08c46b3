"""The settings that a stage began with, and changes of them: refused, reported, or ignored."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import pytest

from ola_jax.errors import OlaError
from ola_jax.training import changes, stage_settings
from ola_jax.training.config import TrainConfig
from ola_jax.training.renamed import RENAMED
from ola_jax.training.start import stage_folder
from tests.golden import VISIBLE
from tests.training import tiny_run
from tests.training.test_settings import changed

GENERATION = {"temperature": 0.0}
STEP = 4


@pytest.fixture
def config(tmp_path: pathlib.Path) -> TrainConfig:
    config = tiny_run.get_config(str(tmp_path))
    shutil.copytree(VISIBLE / "hf", tmp_path / "tokenizer")
    return dataclasses.replace(config, tokenizer=str(tmp_path / "tokenizer"))


def described(config: TrainConfig, number: int = 0) -> dict[str, Any]:
    return stage_settings.describe(
        config, number, tokenizer=pathlib.Path(config.tokenizer), generation=GENERATION
    )


def begun(config: TrainConfig, step: int = STEP) -> pathlib.Path:
    """The folder of a stage that has a record and a checkpoint."""
    folder = stage_folder(config, 0)
    folder.mkdir(parents=True)
    assert stage_settings.record(folder, described(config), changes.Changes({}, {}), step=0, steps=10) == []
    (folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
    return folder


def resumed(folder: pathlib.Path, config: TrainConfig) -> list[str]:
    steps = config.stages[0].steps
    found = stage_settings.check_resumed(folder, described(config), steps)
    return stage_settings.record(folder, described(config), found, step=STEP, steps=steps)


REFUSED = [
    ("model.llm.rope_theta", 1e4, "model.llm.rope_theta: 1000000.0 -> 10000.0"),
    ("model.llm.rms_norm_eps", 1e-5, "model.llm.rms_norm_eps: 1e-06 -> 1e-05"),
    ("model.whisper", None, "model.whisper: a part of the model -> None"),
    ("model.speech_stack", 5, "model.speech_stack: 10 -> 5"),
    ("model.downsampling", "mean", "model.downsampling: 'local_global' -> 'mean'"),
    ("processor.system_prompt", "Be brief.", "processor.system_prompt: '' -> 'Be brief.'"),
    ("processor.max_length", 100, "processor.max_length: 16384 -> 100"),
    ("processor.train.max_frames", 4, "processor.train.max_frames: 48 -> 4"),
    ("stages.0.lora.alpha", 8.0, "lora.alpha: 16.0 -> 8.0"),
    ("stages.0.trainable", ("llm/",), "trainable"),
    ("stages.0.sources.0.weight", 2.0, "sources.0.weight: None -> 2.0"),
    ("stages.0.sources", (), "sources: 1 -> 0"),
    ("stages.0.optimizer.kind", "muon", "optimizer.kind: 'adamw' -> 'muon'"),
    ("stages.0.optimizer.momentum_dtype", "bfloat16", "optimizer.momentum_dtype"),
    ("stages.0.rows", 4, "rows: 2 -> 4"),
    ("stages.0.budget.tokens", 128, "budget.tokens: 64 -> 128"),
    ("seed", 1, "seed: 0 -> 1"),
    ("init_from", "elsewhere", "init_from: None -> 'elsewhere'"),
]
REPORTED = [
    ("stages.0.optimizer.learning_rate", 2e-5, "optimizer.learning_rate: 0.003 -> 2e-05, from step 5 on"),
    ("stages.0.optimizer.part_rates.0.learning_rate", 1.0, "optimizer.part_rates.0.learning_rate"),
    ("stages.0.steps", 20, "steps: 10 -> 20, from step 5 on"),
    ("stages.0.microbatches", 2, "microbatches: 1 -> 2"),
    ("stages.0.optimizer.offload", True, "optimizer.offload: False -> True"),
    ("stages.0.sources.0.root", "/data", "sources.0.root"),
    ("stages.0.held_out", (), "held_out: "),
    ("model.dtype", "bfloat16", "model.dtype: 'float32' -> 'bfloat16'"),
    ("model.pooling", "pallas", "model.pooling"),
    ("model.attention", "xla", "model.attention"),
    ("model.remat", "full", "model.remat"),
    ("mesh.fsdp", 2, "run.mesh.fsdp: 1 -> 2"),
    ("processor.media.video_frames", 5, "processor.media.video_frames"),
    ("bad_steps.action", "skip", "run.bad_steps.action: 'stop' -> 'skip'"),
    ("data.max_skipped", 3, "run.data.max_skipped: 0 -> 3"),
    ("checkpoint.best", "accuracy", "run.checkpoint.best: 'loss' -> 'accuracy'"),
]
IGNORED = [
    ("logging.log_every", 7),
    ("checkpoint.save_every", 7),
    ("checkpoint.keep", 9),
    ("logging.wandb", "x"),
    ("data.cache_samples", True),
]


@pytest.mark.parametrize(("path", "value", "expected"), REFUSED, ids=[path for path, *_ in REFUSED])
def test_what_makes_another_model_or_other_data_is_refused(
    config: TrainConfig, path: str, value: Any, expected: str
) -> None:
    folder = begun(config)
    with pytest.raises(OlaError) as caught:
        resumed(folder, changed(config, path, value))
    assert expected in str(caught.value)
    assert str(folder) in str(caught.value)
    assert resumed(folder, config) == []  # restored


@pytest.mark.parametrize(("path", "value", "expected"), REPORTED, ids=[path for path, *_ in REPORTED])
def test_what_may_change_is_reported_once_and_kept(
    config: TrainConfig, path: str, value: Any, expected: str
) -> None:
    folder = begun(config)
    other = changed(config, path, value)
    (line,) = resumed(folder, other)
    assert expected in line
    assert resumed(folder, other) == []  # compared with the latest
    kept = json.loads((folder / stage_settings.FILE).read_text())
    assert [of["after_step"] for of in kept["changes"]] == [STEP]
    assert len(resumed(folder, config)) == 1  # and back
    kept = json.loads((folder / stage_settings.FILE).read_text())
    assert len(kept["changes"]) == 2


@pytest.mark.parametrize(("path", "value"), IGNORED)
def test_what_changes_nothing_is_not_reported(config: TrainConfig, path: str, value: Any) -> None:
    assert resumed(begun(config), changed(config, path, value)) == []


def test_all_that_differs_is_named_at_once(config: TrainConfig) -> None:
    folder = begun(config)
    with pytest.raises(OlaError, match=r"model\.llm\.rope_theta: .*; seed: 0 -> 1"):
        resumed(folder, changed(changed(config, "seed", 1), "model.llm.rope_theta", 1.0))


def test_of_many_the_first_have_their_values_and_others_their_names(config: TrainConfig) -> None:
    folder = begun(config)
    other = changed(config, "processor.train", dataclasses.replace(config.processor.infer, image_multiple=64))
    with pytest.raises(OlaError) as caught:
        resumed(folder, changed(changed(other, "seed", 1), "processor.system_prompt", "x" * 300))
    assert "; also " in str(caught.value)
    assert "processor.system_prompt, seed; restore them" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(folder))


def test_other_records_of_the_same_name_and_number_are_refused(config: TrainConfig) -> None:
    folder = begun(config)
    file = pathlib.Path(config.stages[0].sources[0].records)
    text = file.read_text()
    file.write_text(text.replace("yes", "no!", 1))
    with pytest.raises(OlaError, match=r"sources\.0: other content"):
        resumed(folder, config)
    file.write_text(text)
    assert resumed(folder, config) == []
    moved = file.rename(file.with_name("moved.json"))
    assert resumed(folder, changed(config, "stages.0.sources.0.records", str(moved))) == []


def test_another_tokenizer_is_refused_and_the_same_at_another_place_is_not(
    config: TrainConfig, tmp_path: pathlib.Path
) -> None:
    folder = begun(config)
    (tmp_path / "tokenizer").rename(tmp_path / "moved")
    moved = dataclasses.replace(config, tokenizer=str(tmp_path / "moved"))
    assert resumed(folder, moved) == []
    file = (
        tmp_path
        / "moved"
        / ("tokenizer.json" if (tmp_path / "moved/tokenizer.json").exists() else "merges.txt")
    )
    file.write_text(file.read_text() + "\n")
    with pytest.raises(OlaError, match="tokenizer: other content"):
        resumed(folder, moved)


def test_steps_behind_the_newest_checkpoint_are_refused(config: TrainConfig) -> None:
    folder = begun(config)
    with pytest.raises(OlaError, match=r"newest checkpoint is of step 4, and steps is 3; set it to 4"):
        resumed(folder, changed(config, "stages.0.steps", 3))
    assert resumed(folder, changed(config, "stages.0.steps", 4)) == [
        "steps: 10 -> 4 has no effect: all steps are done"
    ]


def test_a_stage_without_a_record_gets_one_and_says_so_once(config: TrainConfig) -> None:
    folder = begun(config)
    (folder / stage_settings.FILE).unlink()
    (line,) = resumed(folder, config)
    assert "not recorded so far" in line
    assert resumed(folder, config) == []


def test_a_stage_without_checkpoints_begins_with_what_is_asked(config: TrainConfig) -> None:
    folder = begun(config)
    shutil.rmtree(folder / "checkpoints")
    other = changed(config, "model.llm.rope_theta", 1e4)
    found = stage_settings.check_resumed(folder, described(other), 10)
    assert stage_settings.record(folder, described(other), found, step=0, steps=10) == []
    assert stage_settings.read(folder)["model"]["llm"]["rope_theta"] == 1e4


def test_a_setting_that_an_older_version_did_not_know_is_no_change(config: TrainConfig) -> None:
    folder = begun(config)
    file = folder / stage_settings.FILE
    values = json.loads(file.read_text())
    del values["settings"]["processor"]["media"]
    del values["settings"]["model"]["speech_stack"]
    del values["settings"]["optimizer"]["part_rates"][0]["pattern"]
    values["settings"]["processor"]["gone"] = 3
    file.write_text(json.dumps(values))
    assert resumed(folder, config) == []


def test_a_record_with_former_names_is_compared_by_the_present_ones(config: TrainConfig) -> None:
    folder = begun(config)
    file = folder / stage_settings.FILE
    values = json.loads(file.read_text())
    run = values["settings"]["run"]
    flat = {old: run[new.split(".")[0]][new.split(".")[1]] for old, new in RENAMED.items()}
    groups = {new.split(".")[0] for new in RENAMED.values()}
    values["settings"]["run"] = {k: v for k, v in run.items() if k not in groups} | flat
    file.write_text(json.dumps(values))
    expected = described(config)
    for group in groups:  # settings that came later have no former name
        of_old = {new.split(".")[1] for new in RENAMED.values() if new.startswith(f"{group}.")}
        expected["run"][group] = {k: v for k, v in expected["run"][group].items() if k in of_old}
    assert stage_settings.read(folder) == expected
    assert resumed(folder, changed(config, "bad_steps.max_skipped", 3)) == [
        "run.bad_steps.max_skipped: 10 -> 3, from step 5 on"
    ]
    assert json.loads(file.read_text())["settings"]["run"]["bad_steps"]["max_skipped"] == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 9, "settings": {}}'])
def test_a_record_that_cannot_be_read_is_one_line(config: TrainConfig, text: str) -> None:
    folder = begun(config)
    (folder / stage_settings.FILE).write_text(text)
    with pytest.raises(OlaError, match=r"settings\.json: cannot be read"):
        resumed(folder, config)


def test_every_setting_has_a_meaning_of_its_own(config: TrainConfig) -> None:
    """Nothing is left to the default of the table."""
    for path in changes.differences({}, described(dataclasses.replace(config, init_from="x"))):
        assert any(changes.fnmatch.fnmatchcase(path, pattern) for pattern, _ in changes.MEANINGS), path


def test_a_finished_stage_says_what_has_no_effect_on_it(config: TrainConfig) -> None:
    folder = begun(config)
    other = changed(changed(config, "stages.0.steps", 20), "mesh.fsdp", 2)
    (line,) = stage_settings.check_finished(folder, described(other))
    assert line.startswith("steps: 10 -> 20 has no effect: the stage is finished; remove")
    with pytest.raises(OlaError, match="the stage is finished, and began with other settings: seed: 0 -> 1"):
        stage_settings.check_finished(folder, described(changed(config, "seed", 1)))
    pathlib.Path(config.stages[0].sources[0].records).unlink()  # not needed any more
    assert stage_settings.check_finished(folder, described(config)) == []


def test_a_stage_is_bound_to_what_the_one_before_ended_with(config: TrainConfig) -> None:
    two = dataclasses.replace(
        config, stages=(*config.stages, dataclasses.replace(config.stages[0], name="more"))
    )
    first = begun(two)
    second = described(two, 1)
    stage_settings.record(
        first, described(changed(two, "logging.log_every", 3)), changes.Changes({}, {}), step=2, steps=10
    )
    assert described(two, 1) == second  # nothing that makes other parameters
    slower = changed(two, "stages.0.optimizer.learning_rate", 1e-9)
    stage_settings.record(first, described(slower), changes.Changes({}, {}), step=2, steps=10)
    found = changes.compare(second, described(two, 1))
    assert list(found.refused) == ["init_from.sha256"]
