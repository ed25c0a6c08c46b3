"""The command for GPUs: a part that works, one that fails, one that has no time left."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def run(tmp_path: pathlib.Path, *flags: str) -> tuple[int, list[dict[str, object]]]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--out", str(tmp_path), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (tmp_path / "summary.json").exists(), process.stderr
    return process.returncode, json.loads((tmp_path / "summary.json").read_text())


def test_prompts_and_decoding_are_measured(tmp_path: pathlib.Path) -> None:
    code, (row,) = run(tmp_path, "--tiny", "--only", "decoding")
    assert (code, row["part"], row["ended"]) == (0, "decoding", "done"), (
        tmp_path / "decoding.txt"
    ).read_text()
    found = json.loads((tmp_path / "decoding.json").read_text())["rows"]
    assert [each["answers"] for each in found] == [2]
    assert all(each["first token, ms"] > 0 and each["tokens/s"] > 0 for each in found)


def test_a_part_that_fails_or_has_no_time_is_named_and_makes_the_command_fail(tmp_path: pathlib.Path) -> None:
    code, (row,) = run(tmp_path, "--only", "pooling", "--limit", "5")
    assert (code, row["ended"]) == (1, "no time left")
    missing = tmp_path / "none" / "there"
    missing.parent.write_text("a file, not a folder")
    flags = "--only", "conversion", "--workdir", str(missing)
    code, (row,) = run(tmp_path, *flags)
    assert (code, row["ended"]) == (1, "exit status 1")
