"""Compiled programs kept on disk. JAX's settings are global, so each case is a process of its own."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from ola_jax.compilation_cache import CompilationNotice, keep_compiled_programs, remove_half_written
from ola_jax.errors import OlaError

PROGRAM = """
import sys
import jax
from ola_jax.compilation_cache import keep_compiled_programs
hits = []
note = lambda event, **_: hits.append(event) if "cache_hits" in event else None
jax.monitoring.register_event_listener(note)
keep_compiled_programs(sys.argv[1])
print(jax.jit(lambda x: x * 2 + 1)(3), len(hits))
"""


def program(folder: object, **environment: str) -> tuple[str, str]:
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    out = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return out.stdout.strip(), out.stderr


def test_the_second_process_reuses_the_program_of_the_first(tmp_path: pathlib.Path) -> None:
    assert program("~/programs", HOME=str(tmp_path)) == ("7 0", "")
    assert program("~/programs", HOME=str(tmp_path)) == ("7 1", "")
    assert (tmp_path / "programs").stat().st_mode & 0o077 == 0  # who can write there can run code


def test_a_folder_that_cannot_be_written_is_reported_and_the_process_works_without(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "file").write_text("")
    answer, stderr = program(tmp_path / "file" / "folder")
    assert answer == "7 0"
    assert stderr.count("\n") == 1
    assert stderr.startswith(f"note: {tmp_path / 'file' / 'folder'}: compiled programs are not kept")


def test_none_keeps_nothing(tmp_path: pathlib.Path) -> None:
    assert program("none", HOME=str(tmp_path)) == ("7 0", "")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_name_is_refused() -> None:
    with pytest.raises(OlaError, match="empty"):
        keep_compiled_programs("")


def test_programs_left_half_written_are_removed_but_not_recent_ones(tmp_path: pathlib.Path) -> None:
    for name in ("complete-cache", "complete-atime", "half-cache", "new-cache"):
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / "half-cache", (0, 0))
    os.utime(tmp_path / "complete-cache", (0, 0))
    remove_half_written(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"complete-cache", "complete-atime", "new-cache"}


def test_long_compiling_is_reported_at_a_terminal_and_short_compiling_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = CompilationNotice("FOLDER", seconds=0.05)
    progress.begin("compiling, where nobody looks")
    time.sleep(0.2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name, seconds in (("one", 0.0), ("two", 0.2), ("three", 0.0)):
        progress.begin(f"compiling {name}")
        time.sleep(seconds)
    progress.end()
    time.sleep(0.2)
    assert capsys.readouterr().err == "compiling two ... (once: kept in FOLDER for the next time)\n"
