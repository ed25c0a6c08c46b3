import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "hot_path.py"


@pytest.mark.parametrize("part", ["beats", "cross_entropy", "resampling", "log_mel", "fbank"])
def test_all_forms_agree_and_are_measured(part: str) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1", "--only", part]
    process = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "130"}, check=False
    )
    assert process.returncode == 0, process.stderr
    assert "ours is faster by" in process.stdout
