"""Evaluation while a stage is trained: the same each time, and nothing else is touched."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.data.pipeline import make_train_iterator
from ola_jax.errors import OlaError
from ola_jax.eval.during_training import Evaluation
from ola_jax.models.ola import Ola, abstract_params, init_params
from ola_jax.run.inputs import load_processor
from ola_jax.sharding import MeshConfig
from ola_jax.training import optimizer, state
from ola_jax.training.check_config import check_config
from ola_jax.training.config import CheckpointConfig, EvaluationConfig, LoggingConfig, TrainConfig
from ola_jax.training.start import start_params
from ola_jax.training.state import TrainState
from ola_jax.training.step import loss
from tests.training import tiny_run
from tests.training.test_settings import changed
from tests.training.test_watch import lines, run_stage


@pytest.fixture
def config(tmp_path: pathlib.Path) -> TrainConfig:
    return dataclasses.replace(
        tiny_run.get_config(str(tmp_path)), evaluation=EvaluationConfig(every=3, batches=4)
    )


def evaluated(config: TrainConfig) -> tuple[TrainState, list[dict[str, float]]]:
    """Twice, at the parameters that the run begins with."""
    (stage,) = config.stages
    processor, generation = load_processor(config)
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        tx = optimizer.build(stage.optimizer, stage.steps)
        _, shardings = state.abstract_state(config.model, stage.trainable, tx, mesh=mesh)
        train_state = state.create(
            init_params(config.model, config.seed), stage.trainable, tx, shardings=shardings
        )
        evaluation = Evaluation(config, stage, processor, generation=generation, mesh=mesh)
        found = [evaluation(train_state), evaluation(train_state)]
        evaluation.close()
    return train_state, found


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2)], ids=["one", "mesh"])
def test_the_loss_is_the_mean_over_the_labelled_tokens_of_held_out_records(
    config: TrainConfig, mesh: MeshConfig
) -> None:
    before, (first, second) = evaluated(dataclasses.replace(config, mesh=mesh))
    (stage,) = config.stages
    processor, _ = load_processor(config)
    batches = list(
        make_train_iterator(
            stage.held_out, processor, stage.budget, batch_rows=stage.rows, seed=config.seed, epochs=1
        )
    )
    assert len(batches) <= 4  # all records
    params = jax.tree.map(np.asarray, before.params)
    compiled = jax.jit(lambda params, batch: loss(Ola(config.model), params, batch))
    losses = [compiled(params, batch.batch) for batch in batches]
    counts = [float(about["targets"]) for _, about in losses]
    expected = np.average([float(mean) for mean, _ in losses], weights=counts)
    assert len({*counts}) > 1
    assert first == second
    assert first["eval/loss"] == pytest.approx(expected, rel=1e-5)
    after = init_params(config.model, config.seed)
    jax.tree.map(np.testing.assert_array_equal, params, after)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2)], ids=["one", "mesh"])
def test_tasks_are_answered_if_asked(config: TrainConfig, mesh: MeshConfig) -> None:
    config = dataclasses.replace(tiny_run.with_tasks(config), mesh=mesh)
    config = changed(changed(config, "evaluation.tasks", True), "evaluation.limit", 3)
    _, (first, second) = evaluated(config)
    assert first == second
    assert set(first) == {"eval/loss", "eval/accuracy", "eval/accuracy/numbers"}
    assert first["eval/accuracy"] == first["eval/accuracy/numbers"] == 0.0  # nothing was learnt


def test_as_few_batches_are_taken_as_asked(config: TrainConfig) -> None:
    _, (one, _) = evaluated(changed(config, "evaluation.batches", 1))
    _, (all_of_them, _) = evaluated(config)
    assert one["eval/loss"] != all_of_them["eval/loss"]


@pytest.mark.parametrize("answers", [[], [{"from": "gpt", "value": ""}]], ids=["none", "empty"])
def test_held_out_records_without_an_answer_are_an_error(
    config: TrainConfig, answers: list[dict[str, str]]
) -> None:
    (stage,) = config.stages
    records = [{"id": "q", "conversations": [{"from": "human", "value": "x"}, *answers]}] * 3
    pathlib.Path(stage.held_out[0].records).write_text(json.dumps(records))
    with pytest.raises(OlaError, match=r"heldout\.json.*record 'q': 'conversations': no answer of 'gpt'"):
        evaluated(changed(config, "data.max_skipped", 100))


def test_no_labelled_token_in_the_batches_is_an_error_and_no_loss_of_zero(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluation, "_batches", lambda self: iter(()))
    with pytest.raises(OlaError, match="held_out of stage 'tune': no labelled token in 0 batches"):
        evaluated(config)


def test_training_is_the_same_with_and_without_evaluation(
    config: TrainConfig, tmp_path: pathlib.Path
) -> None:
    params = run_stage(config)
    by_step: dict[int, dict] = {}
    for line in lines(config):
        by_step.setdefault(line["step"], {}).update(line)
    assert [step for step, line in by_step.items() if "eval/loss" in line] == [3, 6, 9, 10]
    assert by_step[10]["eval/loss"] < by_step[3]["eval/loss"]
    assert by_step[10]["recompilations"] == 0
    without = dataclasses.replace(config, output=str(tmp_path / "without"), evaluation=EvaluationConfig())
    jax.tree.map(np.testing.assert_array_equal, run_stage(without), params)


def test_a_stage_can_end_with_the_best_of_its_checkpoints(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are made up, so that the best is neither the first nor the last."""
    real, made_up = Evaluation.__call__, iter([1.0, 0.5, 0.7, 0.9])
    monkeypatch.setattr(Evaluation, "__call__", lambda self, s: real(self, s) | {"eval/loss": next(made_up)})
    kept = CheckpointConfig(keep=1, keep_best=1, final_model="best", save_every=100)
    config = dataclasses.replace(config, checkpoint=kept)
    check_config(config)
    params = run_stage(config)
    folder = pathlib.Path(config.output) / "0_tune" / "checkpoints"
    assert sorted(int(f.name) for f in folder.iterdir()) == [6, 10]
    # The parameters after six steps, from the checkpoint, as another run would start from it.
    other = dataclasses.replace(config, init_from=str(folder / "6"))
    mesh = sharding.make_mesh(MeshConfig())
    places = sharding.parameter_shardings(abstract_params(config.model), mesh)
    jax.tree.map(np.testing.assert_array_equal, start_params(other, 0, places), params)
    newest = start_params(dataclasses.replace(config, init_from=str(folder)), 0, places)
    head = lambda tree: np.asarray(tree["llm"]["lm_head"]["kernel"])
    assert (head(newest) != head(params)).any()


def test_settings_that_need_others_are_refused(config: TrainConfig) -> None:
    def refused(message: str, changes: dict[str, object]) -> None:
        other = config
        for path, value in changes.items():
            other = changed(other, path, value)
        with pytest.raises(OlaError, match=message):
            check_config(other)

    (stage,) = config.stages
    bare = (dataclasses.replace(stage, held_out=()),)
    refused("keep_best is 2, and nothing is evaluated", {"checkpoint.keep_best": 2, "evaluation.every": 0})
    refused("final_model is 'best', and no best checkpoint is kept", {"checkpoint.final_model": "best"})
    refused("'tune' has no held_out records", {"checkpoint.keep_best": 1, "stages": bare})
    refused(
        "best is 'accuracy': that needs tasks", {"checkpoint.keep_best": 1, "checkpoint.best": "accuracy"}
    )
    refused("profile: steps 3 to 2", {"logging.profile": (3, 2)})
    with pytest.raises(OlaError, match="stage 'tune' has nothing to evaluate"):
        evaluated(dataclasses.replace(config, stages=bare))
    check_config(config)


def test_a_profile_of_the_steps_asked_for_is_written(config: TrainConfig) -> None:
    (stage,) = config.stages
    short = dataclasses.replace(stage, steps=4)
    config = dataclasses.replace(
        config, stages=(short,), evaluation=EvaluationConfig(), logging=LoggingConfig(profile=(2, 3))
    )
    run_stage(config)
    assert [line["step"] for line in lines(config)] == [1, 2, 3, 4]
    traces = list((pathlib.Path(config.output) / "0_tune" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert b"train_step" in traces[0].read_bytes()
