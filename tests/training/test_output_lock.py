"""One run at a time in an output folder."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import train
from ola_jax.errors import OlaError
from ola_jax.training.output_lock import NOTE, locked
from tests.training import tiny_run

REPOSITORY = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from ola_jax.training.output_lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def holder(output: pathlib.Path) -> subprocess.Popen:
    """Another process that has locked the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_run_is_refused_and_told_who_has_the_folder(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "not" / "yet" / "there"
    with locked(output):
        with (
            pytest.raises(
                OlaError, match=rf"another run writes there \(host .*, process {os.getpid()}, since"
            ),
            locked(output),
        ):
            pass
        assert json.loads((output / NOTE).read_text())["pid"] == os.getpid()
        with locked(tmp_path / "other"):  # two runs with folders of their own
            pass
    with locked(output):  # free again
        pass
    assert not (output / NOTE).exists()


def test_it_is_free_again_after_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OlaError, match="something else"), locked(tmp_path):
        raise OlaError("something else")
    with pytest.raises(SystemExit), locked(tmp_path):
        sys.exit(143)
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert said == []


def test_the_lock_of_a_process_that_was_killed_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(OlaError, match=f"process {process.pid}"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said: list[str] = []
    with locked(tmp_path, said.append):
        assert len(said) == 1
        assert f"process {process.pid}" in said[0]


def test_train_opens_nothing_where_another_run_writes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run.get_config(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", f"--config={tiny_run.__file__}:{tmp_path}"])
    with locked(tmp_path), pytest.raises(OlaError, match="another run writes there"):
        train.main()
    assert not (tmp_path / "0_tune").exists()


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/no/such/folder"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: pathlib.Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    expected = r"output: .* cannot be written \(.*\); expected a folder"
    with pytest.raises(OlaError, match=expected), locked(tmp_path / output):
        pass
