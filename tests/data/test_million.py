import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("count", "prepared", "processes"),
    [(1000, 100, 1), pytest.param(1_000_000, 100_000, 2, marks=pytest.mark.slow)],
)
def test_many_records_start_in_seconds_and_in_bounded_memory(tmp_path, count, prepared, processes):
    command = [
        sys.executable,
        "-m",
        "tests.data.million_run",
        *map(str, (tmp_path, count, prepared, processes)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["bad"] == count // 1000
    assert figures["prepared"] == prepared - -(-(prepared - 7) // 1000)
    assert figures["start, s"] + figures["first batch, s"] < 30
    assert figures["resume, s"] + figures["batch after resuming, s"] < 30
    assert figures["records"] > 2
    megabytes = sum(value for name, value in figures.items() if name.endswith(", MB"))
    assert megabytes < 400
