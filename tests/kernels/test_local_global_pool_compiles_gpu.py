"""The GPU compiler, ptxas included, accepts the pooling kernels for an H100, without a GPU."""

import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ola_jax import sharding
from ola_jax.aot import gpu_topology
from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool
from ola_jax.models.pooling import LocalGlobalPooling
from ola_jax.sharding import MeshConfig

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason='needs the compiler for GPUs: pip install "ola_jax[aot-cuda]"',
)


@functools.cache
def devices(name: str) -> list:
    return gpu_topology.find_topology(name).devices


def compiled(groups: int, width: int, dtype: str = "bfloat16", backward: bool = True):
    """The program for one H100."""
    mesh = Mesh(np.array(devices("h100")), ("device",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract = lambda *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=replicated)
    pool = lambda x, params: local_global_pool(x, params, implementation="pallas")
    total = lambda x, params: pool(x, params).astype(jnp.float32).sum()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = PoolParams(abstract(2 * width, width), abstract(width), abstract(width, width))
        step = jax.jit(jax.value_and_grad(total, (0, 1)) if backward else pool)
        return step.lower(abstract(groups, 4, width), params).compile(compiler_options=gpu_topology.OPTIONS)


def kernels(program) -> int:
    return program.as_text().count('custom_call_target="mosaic_gpu')


def test_forward_is_two_kernels() -> None:
    assert kernels(compiled(groups=64, width=1152, backward=False)) == 2


def test_forward_and_backward_are_four_kernels_at_sizes_that_do_not_divide() -> None:
    assert kernels(compiled(groups=50, width=200)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("groups", [64, 4096, 65536])
@pytest.mark.parametrize("width", [1152, 3584])
def test_all_sizes_of_ola_compile(width: int, groups: int) -> None:
    assert kernels(compiled(groups, width)) == 4
    assert kernels(compiled(groups, width, backward=False)) == 2


def test_eight_gpus_each_pool_their_own_groups() -> None:
    """Runs in the model, on a mesh: each device runs the kernels; gradients of the parameters are summed."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=4), devices("h100:8"))
    module = LocalGlobalPooling(jnp.bfloat16, implementation="pallas")
    split = lambda *names: NamedSharding(mesh, sharding.activation_spec(*names))
    x = jax.ShapeDtypeStruct((16, 64, 4, 256), jnp.bfloat16, sharding=split("windows"))
    boxed = jax.eval_shape(
        LocalGlobalPooling().init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    abstract = lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s)
    params = jax.tree.map(abstract, nn.unbox(boxed), sharding.parameter_shardings(boxed, mesh))
    with jax.set_mesh(mesh):
        total = lambda params, x: module.apply(params, x).astype(jnp.float32).sum()
        program = (
            jax.jit(jax.grad(total, (0, 1))).lower(params, x).compile(compiler_options=gpu_topology.OPTIONS)
        )
    assert kernels(program) == 4
    assert re.search("reduce-scatter|all-reduce", program.as_text())
    assert "all-gather" in program.as_text()


def test_the_products_keep_their_sums_in_registers(tmp_path: pathlib.Path) -> None:
    """According to ptxas: no wgmma waits for the one before it, and only a few addresses are spilled."""
    script = "from tests.kernels import test_local_global_pool_compiles_gpu as t; t.compiled(4096, 3584)"
    # Mosaic reports ptxas's output in this way only, and reads the settings when it is loaded.
    dump = {"MOSAIC_GPU_DUMP_TO": str(tmp_path), "MOSAIC_GPU_DUMP_PTXAS": "1", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", script], env=os.environ | dump, check=True, capture_output=True)
    reports = [file.read_text() for file in tmp_path.glob("*.ptxas")]
    assert len(reports) == 4
    for text in reports:
        assert "serialized" not in text
        assert int(re.search(r"(\d+) bytes spill stores", text)[1]) <= 256  # the sums are 512
        assert int(re.search(r"Used (\d+) registers", text)[1]) == 168  # 3 * 128 threads share 65536
