"""The training step beside PyTorch's does the same work: the same losses and gradients."""

import json
import pathlib
import subprocess
import sys

import numpy as np

REPOSITORY = pathlib.Path(__file__).parents[2]


def test_all_forms_have_the_same_losses_and_gradients(tmp_path: pathlib.Path) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "benchmarks/train_step.py",
        "--size",
        "tiny",
        "--rounds",
        "1",
        "--samples",
        "5",
    ]
    out = subprocess.run(
        [*command, "--json", str(figures)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr
    ours, *torch = json.loads(figures.read_text())["results"]
    assert [form["form"] for form in torch] == ["torch padded", "torch packed"]
    for form in torch:
        np.testing.assert_allclose(form["losses"], ours["losses"], rtol=1e-6)  # the second after an update
        np.testing.assert_allclose(form["grad_norms"], ours["grad_norms"], rtol=1e-5)
    assert ours["tokens_per_second"] > 0
    assert ours["peak_bytes"] > 1e8
