"""The command line of train.py."""

import pathlib
import re
import subprocess
import sys

import pytest

import train
from ola_jax.errors import OlaError
from ola_jax.training.load_config import is_help, load_config
from ola_jax.training.renamed import RENAMED

REPOSITORY = pathlib.Path(__file__).parents[2]
DEMO = str(REPOSITORY / "configs" / "digits_omni.py")


def test_values_may_follow_a_blank_or_an_equals_sign() -> None:
    one = load_config(
        [f"--config={DEMO}:runs/x", "--config.mesh.fsdp=-1", "--config.logging.profile", "20", "25"]
    )
    other = load_config(
        ["--config", f"{DEMO}:runs/x", "--config.mesh.fsdp", "-1", "--config.logging.profile", "20", "25"]
    )
    assert one.config == other.config
    assert (one.config.mesh.fsdp, one.config.logging.profile, one.config.output) == (-1, (20, 25), "runs/x")
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


def test_a_field_that_has_moved_into_a_group_is_an_error_that_names_it_as_it_is_now() -> None:
    config = load_config([f"--config={DEMO}"]).config
    for name, now in RENAMED.items():
        for flag in ([f"--config.{name}=3"], [f"--config.{name.replace('_', '-')}", "3"]):
            with pytest.raises(OlaError, match=rf"^--config\.{name}: is now --config\.{now}$"):
                load_config([f"--config={DEMO}", *flag])
        group, field = now.split(".")
        assert hasattr(getattr(config, group), field)
        assert not hasattr(config, name)


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
    for expected in (
        "--checkpoint.save-every",
        "runs/x",
        "--stages.0.optimizer.learning-rate",
        "--config.FIELD=VALUE",
    ):
        assert expected in shown


RETURNED = {  # by get_config(): what its error is
    "None": r"get_config\(\) returned None, expected a TrainConfig$",
    "dataclasses.replace(config, stages=list(config.stages))": r"stages: \[.*, expected a tuple$",
    "dataclasses.replace(config, seed=1.5)": r"seed: 1\.5, expected a whole number$",
    "dataclasses.replace(config, eval_every=3)": r"eval_every is now every of TrainConfig\.evaluation$",
}


def test_a_config_of_other_types_or_fields_is_one_line(tmp_path: pathlib.Path) -> None:
    """Reads it like train.py, without the types that the tests check."""
    files = [tmp_path / f"config{number}.py" for number in range(len(RETURNED))]
    for file, returned in zip(files, RETURNED, strict=True):
        file.write_text(
            "import dataclasses, runpy\ndef get_config():\n"
            f"    config = runpy.run_path({DEMO!r})['get_config']()\n    return {returned}\n"
        )
    script = (
        "import sys\nfrom ola_jax.errors import run\nfrom ola_jax.training.load_config import load_config\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n        run(lambda: load_config([f'--config={file}']))\n"
        "    except SystemExit as end:\n        print(end.code)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, *map(str, files)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.stdout.split() == ["2"] * len(RETURNED), out.stdout + out.stderr
    for line, expected in zip(out.stderr.splitlines(), RETURNED.values(), strict=True):
        assert re.search(expected, line), line


def test_a_config_that_needs_an_argument_says_so(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.py"
    file.write_text("def get_config(output): ...")
    with pytest.raises(OlaError, match=r"takes an argument, given as --config=.*config\.py:ARGUMENT"):
        load_config(["--config", str(file)])


def test_a_config_may_import_from_the_current_folder_and_change_the_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", [*before])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_the_config.py").write_text("OUTPUT = 'runs/beside'")
    (tmp_path / "config.py").write_text(
        "import dataclasses, runpy, sys\nfrom beside_the_config import OUTPUT\nsys.path.append('mine')\n"
        f"def get_config():\n    config = runpy.run_path({DEMO!r})['get_config']()\n"
        "    return dataclasses.replace(config, output=OUTPUT)\n"
    )
    loaded = load_config(["--config=config.py"])
    assert loaded.config.output == "runs/beside"
    assert loaded.prepare is None
    assert sys.path == [*before, "mine"]
