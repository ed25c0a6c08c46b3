"""The console command `ola`, as `python -m ola_jax.cli.main`."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from ola_jax.cli import main

REPOSITORY = pathlib.Path(__file__).parents[2]


def ola(*arguments: str, cwd: pathlib.Path = REPOSITORY) -> subprocess.CompletedProcess:
    """The command in a process of its own, with `cwd` as its current folder but not on its path."""
    command = [sys.executable, "-P", "-m", "ola_jax.cli.main", *arguments]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit status, output and errors of the command in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            main.main(arguments)
        except SystemExit as ended:
            status = ended.code or 0
        return status, *capsys.readouterr()

    return run


def test_help_lists_the_commands_and_imports_nothing_for_them(ends: Callable) -> None:
    script = (
        "import sys\nfrom ola_jax.cli.main import main\nmain(['--help'])\n"
        "heavy = {'jax', 'flax', 'numpy', 'tyro', 'rich', 'torch', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    for name in main.COMMANDS:
        assert f"\n  {name} " in out.stdout
    assert ends("-h") == (0, out.stdout, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], ["usage: ola train --config=FILE", "--topology=NAME"]),
        (["convert"], ["usage: ola convert", "import", "export", "verify"]),
        (["convert", "import"], ["usage: ola convert import", "--from", "--to", "--whisper"]),
        (["ask"], ["usage: ola ask", "--checkpoint", "--max-new-tokens"]),
        (["serve"], ["usage: ola serve", "--checkpoint", "--api-key-file", "--limits.images"]),
    ],
)
def test_each_command_has_its_help(ends: Callable, arguments: list[str], expected: list[str]) -> None:
    status, shown, errors = ends(*arguments, "--help")
    assert (status, errors) == (0, "")
    for text in expected:
        assert text in shown


@pytest.mark.parametrize("arguments", [[], ["trian"], ["--verbose"], ["a\nb"]])
def test_an_unknown_command_is_answered_with_the_list_of_commands(
    ends: Callable, arguments: list[str]
) -> None:
    status, shown, errors = ends(*arguments)
    assert (status, shown, errors.count("\n")) == (2, "", 1)
    assert "expected one of train, data, convert, ask, serve" in errors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "error: give one --config=FILE"),
        (
            ["convert", "import", "--from", "none", "--to", "{folder}/to"],
            "error: none/config.json: no such file",
        ),
        (["ask", "--checkpoint", "{folder}", "--text", "Hi"], "not an ola_jax checkpoint"),
        (["ask", "--checkpoint", "{folder}", "--compilation-cache", "none"], "give --text, --image"),
        (["serve", "--checkpoint", "{folder}", "--port", "0"], "not an ola_jax checkpoint"),
        (["serve", "--checkpoint", "{folder}", "--port", "99999"], "cannot be listened at"),
        (["serve", "--checkpoint", "{folder}", "--limits.queue-seconds", "0"], "queue_seconds is 0.0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    ends: Callable, tmp_path: pathlib.Path, arguments: list[str], expected: str
) -> None:
    status, shown, errors = ends(*[argument.format(folder=tmp_path) for argument in arguments])
    assert (status, shown, errors.count("\n")) == (2, "", 1)
    assert expected in errors


def test_a_config_may_import_from_the_current_folder(tmp_path: pathlib.Path) -> None:
    """Beside configs/, while it is loaded and while its `prepare` runs; such modules come first."""
    for folder in ("configs", "examples"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "examples" / "mine.py").write_text("NAME = 'mine'")
    (tmp_path / "later.py").write_text("NAME = 'later'")
    (tmp_path / "configs" / "a.py").write_text(
        "from examples.mine import NAME\n"
        "from tests.training.tiny_run import get_config as tiny\n\n\n"
        "def get_config(output):\n    assert NAME == 'mine'\n    return tiny(output)\n\n\n"
        "def prepare(config):\n    import later\n    raise SystemExit(f'prepared {later.NAME}')\n"
    )
    out = ola("train", f"--config=configs/a.py:{tmp_path / 'run'}", cwd=tmp_path)
    assert (out.returncode, out.stderr.splitlines()[-1:]) == (1, ["prepared later"]), out.stderr
