"""cuDNN's attention is lowered for a GPU here; what it computes is tested where there is one."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from ola_jax.errors import OlaError
from ola_jax.kernels.attention import packed_attention
from ola_jax.sharding import AXES
from tests.kernels.inputs import packed_inputs
from tests.kernels.test_attention import sorted_segments

H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")


def gpu_mesh(**sizes: int) -> AbstractMesh:
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * 4, abstract_device=H100)


def attend(q, k, v, segments, causal: bool = True, **how):
    inputs = packed_inputs(q, k, v, segments, segments, causal)
    return packed_attention(inputs, implementation="cudnn", **how)


def arrays(length: int = 64, width: int = 128, heads: int = 4, dtype: str = "bfloat16") -> tuple:
    normal = lambda n: jnp.asarray(np.random.default_rng(n).normal(size=(2, length, n, width)), dtype)
    return normal(heads), normal(2), normal(2) + 1, sorted_segments(2, length)


@pytest.mark.parametrize(("width", "causal"), [(128, True), (72, False)], ids=["decoder", "vision"])
def test_forward_and_backward_are_lowered_to_cudnn(
    width: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_200)
    total = lambda q, k, v, segments: attend(q, k, v, segments, causal).astype(jnp.float32).sum()
    step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    checks = [
        jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaScaleBiasSoftmax{backward}")
        for backward in ("", "Backward")
    ]
    with jax.sharding.use_abstract_mesh(gpu_mesh()):
        exported = jax.export.export(step, platforms=["cuda"], disabled_checks=checks)(*arrays(width=width))
    text = exported.mlir_module()
    assert text.count("@__cudnn$fmhaScaleBiasSoftmax(") == 1
    assert text.count("@__cudnn$fmhaScaleBiasSoftmaxBackward(") == 1
    assert ("CAUSAL" in text) == causal
    assert f"2x64x2x{width}xbf16" in text  # keys as they are: no copy for each query head


@pytest.mark.parametrize(
    ("what", "change", "sizes"),
    [
        ("float32; expected bfloat16", {"dtype": "float32"}, {}),
        ("width 20; expected multiples of 8", {"width": 20}, {}),
        ("63 tokens; expected an even", {"length": 63}, {}),
        ("context=2; expected rows that are not split", {}, {"context": 2}),
    ],
)
def test_what_it_cannot_do_is_an_error(what: str, change: dict, sizes: dict) -> None:
    with jax.sharding.use_abstract_mesh(gpu_mesh(**sizes)), pytest.raises(OlaError, match=what) as error:
        attend(*arrays(**change))
    assert 'use attention="xla"' in str(error.value)


def test_without_a_gpu_it_is_an_error() -> None:
    with pytest.raises(OlaError, match="devices are CPUs; expected NVIDIA GPUs"):
        attend(*arrays())


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU")
def test_on_a_gpu_all_forms_agree() -> None:
    """Runs in a process of its own (these run on the CPU); the benchmark compares before it measures."""
    script = pathlib.Path(__file__).parents[2] / "benchmarks" / "hot_path.py"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, script, "--only", "attention", "--rounds", "1"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert process.returncode == 0, process.stderr
    assert "cudnn" in process.stdout
