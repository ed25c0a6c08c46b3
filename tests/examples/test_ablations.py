"""The ablations: equal steps in all arms, runs that are not repeated, tables that say what the scores do."""

import collections
import copy
import json
import pathlib
import sys

import pytest

from examples.ablations import __main__ as command
from examples.ablations import recipe, report, runs
from examples.ablations.arms import ABLATIONS, ARMS, find_arm
from ola_jax.errors import OlaError
from ola_jax.models.ola import parameter_shapes
from ola_jax.training import settings
from ola_jax.training.config import TrainConfig

DATA = pathlib.Path("data")


def config(arm: str) -> TrainConfig:
    return recipe.get_config(find_arm(arm), 0, DATA, pathlib.Path("out"))


def shares(arm: str, stage: int = -1) -> dict[str, float]:
    """The share of each source in a stage."""
    sources = config(arm).stages[stage].sources
    total = sum(source.weight for source in sources)
    return {pathlib.Path(source.records).stem: source.weight / total for source in sources}


@pytest.mark.parametrize("arm", [arm.name for arm in ARMS])
def test_every_arm_has_equal_steps_and_possible_settings(arm: str) -> None:
    made = config(arm)
    assert sum(stage.steps for stage in made.stages) == sum(stage.steps for stage in config("ola").stages)
    assert {stage.rows for stage in made.stages} == {recipe.ROWS}
    assert list(settings.find_broken(made, settings.RULES)) == []
    assert list(settings.find_model_misfits(made.model)) == []
    parts = {path.split("/")[0] + "/" for path in parameter_shapes(made.model)}
    trained = {part for stage in made.stages for part in stage.trainable}
    assert trained == parts


def test_ola_is_in_every_ablation_and_every_arm_in_one() -> None:
    assert all(ablation.arms[0] == "ola" for ablation in ABLATIONS)
    others = [name for ablation in ABLATIONS for name in ablation.arms[1:]]
    assert sorted(["ola", *others]) == sorted(arm.name for arm in ARMS)


def test_direct_mixing_trains_on_what_the_stages_train_on() -> None:
    total: collections.Counter[str] = collections.Counter()
    for number, stage in enumerate(config("ola").stages[1:], start=1):
        for source, share in shares("ola", number).items():
            total[source] += stage.steps * share
    steps = sum(stage.steps for stage in config("ola").stages[1:])
    assert shares("direct") == pytest.approx(
        {name: amount / steps for name, amount in total.items()}, rel=1e-3
    )


def test_balanced_sampling_gives_every_modality_the_same() -> None:
    found = shares("balanced")
    by_modality = [sum(found[source] for source in sources) for sources in recipe.MODALITIES]
    assert by_modality == pytest.approx([1 / 5] * 5)
    assert set(found) == set(shares("direct"))


def test_without_video_audio_other_data_take_its_share() -> None:
    without, with_it = shares("no_video_audio"), shares("ola")
    assert "video_audio" not in without
    more = with_it.pop("video_audio") / 2
    with_it["video"] += more
    with_it["audio"] += more
    assert without == pytest.approx(with_it)


def made_up(arm: str, seed: int, score: float) -> dict:
    return {
        "arm": arm,
        "seed": seed,
        "scores": dict.fromkeys(recipe.TASKS, score),
        "chance": dict.fromkeys(recipe.TASKS, 0.1),
        "machine": "2 cores",
        "date": "2026-11-27",
        "commit": "abc",
        "versions": {"jax": "0.10"},
        "steps": 1000,
        "tokens": 10**6,
        "labelled_tokens": 10**5,
    }


RESULTS = [made_up("ola", seed, 0.5 + seed / 100) for seed in range(3)]


@pytest.mark.parametrize(
    ("scores", "mark"),
    [((0.4, 0.3, 0.45), "↓"), ((0.6, 0.53, 0.7), "↑"), ((0.4, 0.5, 0.4), "="), ((0.4, 0.3), "")],
)
def test_a_difference_is_one_if_no_seed_contradicts_it(scores: tuple, mark: str) -> None:
    text = report.make_markdown(RESULTS + [made_up("mean", seed, score) for seed, score in enumerate(scores)])
    (line,) = [line for line in text.splitlines() if line.startswith(f"| mean pooling | {len(scores)} |")]
    cells = [cell.strip() for cell in line.split("|")[3:-1]]
    assert len(cells) == len(recipe.TASKS)
    assert all(cell.endswith(mark or ")") for cell in cells)
    assert "| Ola's recipe | 3 | 51 (50 to 52) |" in text
    assert "| BEATs only | 0 | |" in text


def test_the_report_is_written_between_its_marks(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "ablations.md"
    file.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(RESULTS, tmp_path)
        text = file.read_text()
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert text.count("Ola's recipe") == 5
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")
    file.write_text("no marks")
    with pytest.raises(OlaError, match="expected one line"):
        report.write(RESULTS, tmp_path)
    with pytest.raises(OlaError, match="no result yet"):
        report.write([], tmp_path)


class FakeTraining:
    """Stands in for training and scoring: the files of a run, and scores; or an interruption."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[str] = []
        self.interrupt = False
        monkeypatch.setattr(runs.demo, "prepare", lambda config, scale: config)
        monkeypatch.setattr(runs, "check_config", lambda config: None)
        monkeypatch.setattr(runs.stages, "run", self.run)
        monkeypatch.setattr(runs, "evaluate", self.evaluate)

    def run(self, config: TrainConfig) -> None:
        self.trained.append(pathlib.Path(config.output).name)
        for number, stage in enumerate(config.stages):
            folder = runs.stage_folder(config, number)
            folder.mkdir(parents=True, exist_ok=True)
            line = {"tokens": 5, "targets": 2, "step_seconds": 0.5}
            (folder / "metrics.jsonl").write_text((json.dumps(line) + "\n") * stage.steps)
        if self.interrupt:
            raise KeyboardInterrupt

    def evaluate(self, config: TrainConfig, model: pathlib.Path, limit: int) -> dict:
        return {task.name: {"accuracy": 0.5, "questions": limit} for task in config.tasks}


def test_a_finished_run_is_not_repeated_and_an_interrupted_one_is_continued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    fake = FakeTraining(monkeypatch)
    arm = find_arm("mean")
    fake.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        runs.run_arm(arm, 0, tmp_path)
    assert list((tmp_path / "unfinished/mean_0").iterdir())  # the stages, to be continued
    assert runs.read_results(tmp_path) == []
    fake.interrupt = False
    first = runs.run_arm(arm, 0, tmp_path)
    assert not (tmp_path / "unfinished/mean_0").exists()
    assert runs.run_arm(arm, 0, tmp_path) == first
    assert fake.trained == ["mean_0", "mean_0"]
    runs.run_arm(arm, 1, tmp_path)
    assert [(each["arm"], each["seed"]) for each in runs.read_results(tmp_path)] == [("mean", 0), ("mean", 1)]
    assert first["steps"] == sum(stage.steps for stage in config("mean").stages)
    assert first["tokens"] == 5 * first["steps"]
    assert first["settings"]["model"]["downsampling"] == "mean"
    assert str(tmp_path) not in json.dumps(first)


def test_a_result_of_other_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    FakeTraining(monkeypatch)
    runs.run_arm(find_arm("ola"), 0, tmp_path)
    file = runs.result_file(tmp_path, find_arm("ola"), 0)
    earlier = json.loads(file.read_text())
    del earlier["settings"]["stages"][0]["lora"]["alpha"]  # a version without this setting
    file.write_text(json.dumps(earlier))
    assert runs.read_results(tmp_path) == [earlier]
    monkeypatch.setattr(recipe, "SCALE", 0.1)
    for read in (lambda: runs.run_arm(find_arm("ola"), 0, tmp_path), lambda: runs.read_results(tmp_path)):
        with pytest.raises(OlaError, match=r"ola_0\.json: made with other settings"):
            read()


def test_the_command_runs_what_is_named_seed_by_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    calls: list[tuple[str, int]] = []

    def run_arm(arm, seed, folder):
        calls.append((arm.name, seed))
        return copy.deepcopy(RESULTS[0])

    monkeypatch.setattr(command, "run_arm", run_arm)
    monkeypatch.setattr(command, "read_results", lambda folder: RESULTS)
    monkeypatch.setattr(command, "keep_compiled_programs", lambda folder: None)
    where = ["--output", str(tmp_path)]
    command.main(["--ablation", "video_audio", "--arm", "mean", "ola", "--seeds", "0", "4", *where])
    assert calls == [(arm, seed) for seed in (0, 4) for arm in ("ola", "no_video_audio", "mean")]
    assert "Ola's recipe, seed 4: text 50 %" in capsys.readouterr().out
    calls.clear()
    command.main(where)
    assert len(calls) == 3 * len(ARMS)
    calls.clear()
    command.main(["--only-report", "--docs", str(tmp_path / "docs"), *where])
    assert not calls
    assert (tmp_path / "docs/ablations.md").exists()
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "--ablation" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    with pytest.raises(SystemExit):
        command.main(["--arm", "nothing"])
