"""Reading the goldens: outputs of the original PyTorch code (see tests/goldens/visible/README.md)."""

import json
import pathlib

import numpy as np

VISIBLE = pathlib.Path(__file__).parent / "goldens" / "visible"


def index() -> dict:
    """cases.json: sizes, presets, every case and its tolerances."""
    return json.loads((VISIBLE / "cases.json").read_text())


def case(name: str) -> dict:
    """One case of cases.json by its id."""
    return next(c for c in index()["cases"] if c["id"] == name)


def stage(name: str) -> dict:
    """One stage of cases.json by its id."""
    return next(s for s in index()["stages"] if s["id"] == name)


def arrays(file: str) -> dict[str, np.ndarray]:
    """All arrays of one .npz file."""
    with np.load(VISIBLE / file) as data:
        return {name: data[name] for name in data.files}


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: dict | None, name: str) -> None:
    """Within the golden's own tolerance; where it has none, relative error (of norms) at most 1e-5."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected)
    if tolerance is None:
        relative = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
        assert relative <= 1e-5, f"{name}: relative error {relative:.2e} > 1e-5"
        return
    assert error.max() <= tolerance["atol"], f"{name}: max error {error.max():.2e} > {tolerance['atol']:.2e}"
    if "atol_99pct" in tolerance:
        within = (error <= tolerance["atol_99pct"]).mean()
        assert within >= 0.99, f"{name}: only {within:.4f} of the values within {tolerance['atol_99pct']:.0e}"
