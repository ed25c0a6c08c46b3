"""The command runs from end to end: kernels interpreted, and the accounts of compilers that are installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
needs = lambda module, what: pytest.mark.skipif(
    importlib.util.find_spec(module) is None, reason=f"needs the compiler for {what}"
)


def figures(tmp_path: pathlib.Path, *flags: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, ROOT / "benchmarks/pooling.py", *flags, "--json", tmp_path / "figures.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TPU_SKIP_MDS_QUERY": "1"}
    process = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads((tmp_path / "figures.json").read_text()), process.stdout


@pytest.mark.parametrize("kernels", ["tpu", "gpu"])
def test_all_forms_are_measured_with_the_kernels_interpreted(tmp_path: pathlib.Path, kernels: str) -> None:
    found, printed = figures(tmp_path, "--interpret", kernels, "--rounds", "1", "--no-torch")
    assert [(row["form"], row["direction"]) for row in found["rows"]] == [
        (form, direction)
        for form in ("pallas", "xla", "as written")
        for direction in ("forward", "forward + backward")
    ]
    assert found["dtype"] == ("bfloat16" if kernels == "gpu" else "float32")
    assert f"kernels for {kernels} interpreted" in printed
    for row in found["rows"]:
        assert row["groups"] == 2
        figures_of = ("milliseconds", "TFLOP/s", "of product", "GB/s", "of copy", "peak MB")
        assert all(row[figure] > 0 for figure in figures_of)


@pytest.mark.slow  # PyTorch compiles C++
def test_pytorch_is_measured_too(tmp_path: pathlib.Path) -> None:
    found, _ = figures(tmp_path, "--groups", "2", "--width", "8", "--rounds", "1")
    assert {"torch eager", "torch compile"} < {row["form"] for row in found["rows"]}


@needs("jax_cuda13_plugin", 'GPUs: pip install "ola_jax[aot-cuda]"')
def test_the_account_of_an_h100(tmp_path: pathlib.Path) -> None:
    account(tmp_path, "h100")


@needs("libtpu", "TPUs: pip install libtpu")
def test_the_account_of_a_tpu(tmp_path: pathlib.Path) -> None:
    account(tmp_path, "v5e:2x2")


def account(tmp_path: pathlib.Path, topology: str) -> None:
    groups, width = 64, 256
    flags = ("--topology", topology, "--groups", str(groups), "--width", str(width))
    found, _ = figures(tmp_path, *flags)
    rows = {(row["form"], row["direction"]): row for row in found["rows"]}
    assert len(rows) == 6
    needed = 18 * groups * width**2 / 1e9
    for (form, direction), row in rows.items():
        floor = needed * (1 if direction == "forward" else 3)
        assert floor <= row["GFLOP"] < 2 * floor, (form, direction)
        assert row["temporary MB"] >= 0
