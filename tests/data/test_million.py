import json
import subprocess
import sys

import pytest

from tests.data.million import PERIOD


@pytest.mark.parametrize(
    ("count", "processes", "distinct"),
    [
        (1000, 1, False),
        (1000, 1, True),
        pytest.param(1_000_000, 2, False, marks=pytest.mark.slow),
    ],
)
def test_many_records_start_in_seconds_and_in_bounded_memory(tmp_path, count, processes, distinct):
    command = [sys.executable, "-m", "tests.data.million_run", *map(str, (tmp_path, count, processes))]
    done = subprocess.run(command + ["--distinct"] * distinct, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["skipped"] == count // 1000
    checked = count if distinct else min(count, PERIOD)
    assert figures["checked"] == checked
    assert figures["prepared"] == checked - checked // 1000
    assert figures["start, s"] < 30
    assert figures["resume, s"] < 30
    assert figures["records"] > 4
    assert sum(value for name, value in figures.items() if name.endswith(", MB")) < 400
