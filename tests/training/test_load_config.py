"""The command line of train.py."""

import pathlib
import sys

import pytest

import train
from ola_jax.errors import OlaError
from ola_jax.training.load_config import is_help, load_config

DEMO = str(pathlib.Path(__file__).parents[2] / "configs" / "digits_omni.py")


def test_values_may_follow_a_blank_or_an_equals_sign() -> None:
    one = load_config([f"--config={DEMO}:runs/x", "--config.mesh.fsdp=-1", "--config.profile", "20", "25"])
    other = load_config(
        ["--config", f"{DEMO}:runs/x", "--config.mesh.fsdp", "-1", "--config.profile", "20", "25"]
    )
    assert one.config == other.config
    assert (one.config.mesh.fsdp, one.config.profile, one.config.output) == (-1, (20, 25), "runs/x")
    assert load_config(["--config", DEMO, "--config.stages.0.optimizer.eps", "1e-3"]).config.stages[
        0
    ].optimizer.eps == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config"], "give one --config=FILE"),
        (["--config", DEMO, "--config", DEMO], "give one --config=FILE"),
        (["--config", DEMO, "--mesh.fsdp", "-1"], "--config.FIELD=VALUE"),
        (["--config", DEMO, "-x"], "--config.FIELD=VALUE"),
    ],
)
def test_other_options_are_refused(arguments: list[str], expected: str) -> None:
    with pytest.raises(OlaError, match=expected):
        load_config(arguments)


def test_help_alone_shows_the_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for option in ("--help", "-h"):
        monkeypatch.setattr(sys, "argv", ["train.py", option])
        train.main()
        shown = capsys.readouterr().out
        assert "usage: train.py --config=FILE" in shown
        assert "--topology=NAME" in shown
        assert "--config=FILE --help" in shown
    assert not is_help([f"--config={DEMO}", "--help"])


def test_help_with_a_config_shows_its_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", f"{DEMO}:runs/x", "--help"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    for expected in ("--save-every", "runs/x", "--stages.0.optimizer.learning-rate", "--config.FIELD=VALUE"):
        assert expected in shown
