"""The step of a tiny model compiled for a TPU topology, by the command that a user gives."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

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


def compile_only(config: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config.write_text(CONFIG)
    command = [sys.executable, "train.py", f"--config={config}", "--compile_only", *arguments]
    environment = os.environ | ENVIRONMENT
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu (pip install libtpu)")
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


def test_a_compilation_without_a_topology_says_what_to_give(tmp_path: pathlib.Path) -> None:
    out = compile_only(tmp_path / "tiny.py")
    assert (out.returncode, out.stderr.count("\n")) == (2, 1), out.stderr
    assert "--topology=NAME" in out.stderr
