"""The search for the fastest step that fits, with a made-up compiler."""

import dataclasses
import types

import pytest

from ola_jax import hardware
from ola_jax.aot import compile as compiling
from ola_jax.aot import search as searching
from ola_jax.aot.report import Report
from ola_jax.batch import Budget
from ola_jax.config import ProcessorConfig
from ola_jax.errors import OlaError
from ola_jax.sharding import MeshConfig
from ola_jax.training.config import Stage, TrainConfig
from tests import tiny

CHIP = hardware.CHIPS["TPU v5 lite"]
GB_OF_A_ROW = {"full": 1.0, "attention": 1.3, "projections": 1.6, "gate": 2.2, "dots": 3.0, "none": 7.0}
AGAIN = {"full": 1.0, "attention": 0.9, "projections": 0.8, "gate": 0.7, "dots": 0.3, "none": 0.0}
STAGE = Stage("tune", ("llm/",), (), steps=10, rows=1, budget=Budget(tokens=64))


class Compiler:
    """Memory grows with rows; recomputation costs FLOPs; below 4 rows the memory's bandwidth decides."""

    def __init__(self, patch: pytest.MonkeyPatch, arguments: float = 1e9):
        self.analyzed: list[tuple[str, int]] = []
        self.compiled: list[tuple[str, int]] = []
        self.state = arguments
        devices = [types.SimpleNamespace(device_kind="TPU v5 lite")]
        patch.setattr(compiling, "find_topology", lambda name: types.SimpleNamespace(devices=devices))
        patch.setattr(
            searching.sharding,
            "make_mesh",
            lambda config, devices: types.SimpleNamespace(shape={"data": 1, "fsdp": 1}),
        )
        patch.setattr(compiling, "measure_arguments", lambda *_: self.state)
        patch.setattr(compiling, "analyze_stage", self.analyze)
        patch.setattr(compiling, "compile_stage", self.compile)

    def report(self, config: TrainConfig, stage: Stage) -> Report:
        remat, rows = config.model.remat, stage.rows
        return Report(
            "tune", "v5e:1x1", {}, rows, 64 * rows, remat, 1.0, False, self.state,
            GB_OF_A_ROW[remat] * rows * 1e9, CHIP.memory, 0.0, {"llm": 3e12 * rows},
            AGAIN[remat] * 1e12 * rows, CHIP, 60e9, (), {},
        )  # fmt: skip

    def analyze(self, config: TrainConfig, stage: Stage, topology: str) -> Report:
        self.analyzed.append((config.model.remat, stage.rows))
        report = self.report(config, stage)
        if not report.fits:
            raise compiling.DoesNotFitError(f"does not fit: {report.line()}")
        return report

    def compile(self, config: TrainConfig, stage: Stage, topology: str) -> Report:
        self.compiled.append((config.model.remat, stage.rows))
        return dataclasses.replace(self.report(config, stage), has_code=True)


def config() -> TrainConfig:
    return TrainConfig("runs/none", tiny.CONFIG, ProcessorConfig(), (STAGE,), mesh=MeshConfig())


def test_the_fastest_that_fits_is_compiled_and_what_cannot_fit_is_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler, shown = Compiler(monkeypatch), []
    best = searching.search(config(), STAGE, "v5e:1x1", show=shown.append)
    # Of "full", 8 rows gain nothing over 4 (FLOPs decide). "dots" would need 13 GB at 4 rows, and does not
    # gain with more; "none" fits with 2 rows, and 4 would need 29 GB.
    assert compiler.analyzed == [
        ("full", 1), ("full", 2), ("full", 4), ("full", 8),
        *((remat, rows) for remat in ("attention", "projections") for rows in (1, 2, 4, 8)),
        ("gate", 1), ("gate", 2), ("gate", 4),
        ("dots", 1), ("dots", 2), ("dots", 4),
        ("none", 1), ("none", 2),
    ]  # fmt: skip
    assert compiler.compiled == [(best.remat, best.rows)] == [("dots", 4)]
    assert best.has_code
    assert len(shown) == len(compiler.analyzed) + 1


def test_nothing_is_compiled_where_the_state_alone_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(monkeypatch, arguments=20e9)
    with pytest.raises(OlaError, match=r"state and batch alone take 20\.0 of 17\.2 GB"):
        searching.search(config(), STAGE, "v5e:1x1", show=str)
    assert compiler.analyzed == compiler.compiled == []


def test_a_policy_that_needs_more_memory_is_not_tried_where_a_thrifty_one_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = Compiler(monkeypatch, arguments=16.5e9)
    with pytest.raises(OlaError, match="no batch fits"):
        searching.search(config(), STAGE, "v5e:1x1", show=str)
    assert compiler.analyzed == [("full", 1)]


def test_a_compiler_that_fails_for_another_reason_is_not_a_batch_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Compiler(monkeypatch)

    def fail(*_: object) -> Report:
        raise OlaError("tune on v5e:1x1: the compiler failed: libtpu cannot be loaded")

    monkeypatch.setattr(compiling, "analyze_stage", fail)
    with pytest.raises(OlaError, match="the compiler failed: libtpu cannot be loaded"):
        searching.search(config(), STAGE, "v5e:1x1", show=str)
