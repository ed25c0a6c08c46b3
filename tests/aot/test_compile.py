"""The step of a tiny model compiled for TPUs and GPUs that are not there, by a user's own command."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from ola_jax.aot import compile as compiling
from ola_jax.batch import Budget
from ola_jax.config import ProcessorConfig
from ola_jax.errors import OlaError
from ola_jax.training.config import Stage, TrainConfig
from tests import tiny as tiny_model

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIG = """
import dataclasses
from ola_jax.batch import Budget
from ola_jax.config import OlaConfig, OryxViTConfig, ProcessorConfig, Qwen2Config
from ola_jax.sharding import MeshConfig
from ola_jax.training.config import Stage, TrainConfig

def get_config():
    llm = Qwen2Config(
        vocab_size=512, hidden_size=128, num_layers=3, num_heads=4, num_kv_heads=2, intermediate_size=256
    )
    vision = OryxViTConfig(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, position_grid=8)
    model = OlaConfig(llm, vision, None, None, dtype="bfloat16", remat="full")
    budget = Budget(tokens=256, windows=1, window_patches=128)
    stage = Stage("tune", ("llm/", "vision_projector/"), (), steps=10, rows=4, budget=budget)
    return TrainConfig("runs/none", model, ProcessorConfig(), (stage,), mesh=MeshConfig(fsdp=-1))
"""
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


REPORTS = """
import dataclasses, json, sys
from ola_jax.aot import compile as compiling
from ola_jax.training.load_config import load_config

def offloaded(config, offload):
    (stage,) = config.stages
    return dataclasses.replace(stage, optimizer=dataclasses.replace(stage.optimizer, offload=offload))

if __name__ == "__main__":
    config = load_config([f"--config={sys.argv[1]}", "--config.model.pooling=pallas"]).config
    stage = offloaded(config, True)
    print(json.dumps({
        "compiled": dataclasses.asdict(compiling.compile_stage(config, stage, "v5e:2x2")),
        "analyzed": dataclasses.asdict(compiling.analyze_stage(config, stage, "v5e:2x2")),
        "arguments": compiling.measure_arguments(config, stage, "v5e:2x2"),
        "arguments_without": compiling.measure_arguments(config, offloaded(config, False), "v5e:2x2"),
    }))
"""
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (pip install libtpu)"
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Reports of the tiny step with the pooling kernel, a frozen encoder and offloaded optimizer state."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "tiny.py").write_text(CONFIG)
    (folder / "reports.py").write_text(REPORTS)
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(folder / "reports.py"), str(folder / "tiny.py")]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


def compile_only(config: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config.write_text(CONFIG)
    command = [sys.executable, "train.py", f"--config={config}", "--compile_only", *arguments]
    environment = os.environ | ENVIRONMENT
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@needs_libtpu
def test_a_step_compiles_for_tpus_that_are_not_there(tmp_path: pathlib.Path) -> None:
    out = compile_only(tmp_path / "tiny.py", "--topology=v5e:2x2")
    assert out.returncode == 0, out.stdout + out.stderr
    assert "tune on v5e:2x2 (TPU v5e; fsdp=4): 4 rows, 1,024 tokens, remat full" in out.stdout
    for expected in (
        r"compiled in \d+ s",
        r"of 17\.18 GB",
        r"MFU at most \d+ %",
        r"all-gather: \d+",
        "reduce-scatter",
    ):
        assert re.search(expected, out.stdout), out.stdout


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"),
    reason='needs the compiler for GPUs: pip install "ola_jax[aot-cuda]"',
)
def test_a_step_compiles_for_gpus_that_are_not_there(tmp_path: pathlib.Path) -> None:
    out = compile_only(tmp_path / "tiny.py", "--topology=h100:4", "--config.model.pooling=pallas")
    assert out.returncode == 0, out.stdout + out.stderr
    assert "tune on h100:4 (H100; fsdp=4): 4 rows, 1,024 tokens, remat full" in out.stdout
    for expected in ("1 local_global_pool, 1 local_global_pool_hidden", r"of 80\.00 GB", r"all-gather: \d+"):
        assert re.search(expected, out.stdout), out.stdout


def test_a_compilation_without_a_topology_says_what_to_give(tmp_path: pathlib.Path) -> None:
    out = compile_only(tmp_path / "tiny.py")
    assert (out.returncode, out.stderr.count("\n")) == (2, 1), out.stderr
    assert "--topology=NAME" in out.stderr


@needs_libtpu
@pytest.mark.slow
def test_the_search_works_as_documented(tmp_path: pathlib.Path) -> None:
    """Its processes load libtpu beside their parent, which nothing in the environment allows."""
    (tmp_path / "tiny.py").write_text(CONFIG)
    command = [
        sys.executable,
        "train.py",
        f"--config={tmp_path / 'tiny.py'}",
        "--search",
        "--topology=v5e:2x2",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    out = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert re.search(r"fastest: --config\.model\.remat=\w+, \d+ rows", out.stdout), out.stdout


def tiny() -> tuple[TrainConfig, Stage]:
    stage = Stage("tune", ("llm/",), (), steps=10, rows=2, budget=Budget(tokens=64))
    return TrainConfig("runs/none", tiny_model.CONFIG, ProcessorConfig(), (stage,)), stage


def test_a_compiler_may_load_libtpu_beside_its_parent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ALLOW_MULTIPLE_LIBTPU_LOAD"
    monkeypatch.setenv(name, "")
    seen = []
    monkeypatch.setattr(compiling, "_compile", lambda *_: seen.append(os.environ[name]))
    compiling._compile_or_report(*tiny(), "v5e:2x2", str(tmp_path))
    assert seen == ["1"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (compiling.DoesNotFitError("needs more"), ["DoesNotFitError", "needs more"]),
        (OlaError("no such topology"), ["OlaError", "no such topology"]),
        (ValueError(""), ["OlaError", "the compiler failed: ValueError"]),
        (RuntimeError("one\ntwo"), ["OlaError", "the compiler failed: one"]),
    ],
)
def test_a_compiler_leaves_what_went_wrong(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "")
    monkeypatch.setattr(compiling, "_compile", fail)
    compiling._compile_or_report(*tiny(), "v5e:2x2", str(tmp_path))
    (file,) = tmp_path.iterdir()
    kind, reason = json.loads(file.read_text())
    assert kind == expected[0]
    assert reason.endswith(expected[1])


def test_what_failed_in_the_process_of_the_compiler_is_reported() -> None:
    with pytest.raises(OlaError, match="topology 'nonsense:2x2'") as caught:
        compiling.analyze_stage(*tiny(), "nonsense:2x2")
    assert not isinstance(caught.value, compiling.DoesNotFitError)


@pytest.mark.parametrize("message", ["", "\n", "lost\nin two lines", "Internal error: libtpu lockfile"])
def test_an_unknown_topology_is_one_line_whatever_the_compiler_says(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(compiling.topologies, "get_topology_desc", fail)
    for name in ("v5e:2x2", "h100:2"):
        with pytest.raises(OlaError, match=f"topology '{name}'") as caught:
            compiling.find_topology(name)
        assert "\n" not in str(caught.value)


@needs_libtpu
def test_the_sharded_step_compiles_with_the_pooling_kernel_forward_and_backward(
    reports: dict[str, Any],
) -> None:
    kernels = reports["compiled"]["kernels"]
    assert {name for name in kernels if name.startswith("local_global_pool")} == {
        "local_global_pool_hidden",
        "local_global_pool",
        "local_global_pool_scores_gradient",
        "local_global_pool_hidden_gradient",
    }


@needs_libtpu
def test_an_offloaded_state_is_in_the_memory_of_the_host(reports: dict[str, Any]) -> None:
    moved = reports["arguments_without"] - reports["arguments"]  # bytes of the moments
    assert moved > reports["arguments"] / 2
    assert moved <= reports["compiled"]["host"] <= 1.5 * moved  # small vectors are padded
    assert reports["compiled"]["arguments"] < reports["arguments_without"]


@needs_libtpu
def test_an_analysis_without_code_reports_the_same(reports: dict[str, Any]) -> None:
    compiled, analyzed = reports["compiled"], reports["analyzed"]
    assert (compiled.pop("has_code"), analyzed.pop("has_code")) == (True, False)
    del compiled["seconds"], analyzed["seconds"]
    assert analyzed == compiled
