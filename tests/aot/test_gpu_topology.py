import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ola_jax import hardware
from ola_jax.aot import gpu_topology
from ola_jax.errors import OlaError

PLUGIN = importlib.util.find_spec("jax_cuda13_plugin") is not None


@pytest.mark.skipif(not PLUGIN, reason='needs the compiler for GPUs: pip install "ola_jax[aot-cuda]"')
@pytest.mark.parametrize("kind", gpu_topology.GPUS)
def test_a_product_over_eight_gpus_compiles_with_its_collective(kind: str) -> None:
    devices = gpu_topology.find_topology(f"{kind}:8").devices
    assert hardware.find_chip(devices[0].device_kind).name.lower() == kind
    mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((1024, 4096), jnp.bfloat16, sharding=split)
    program = jax.jit(lambda x: x.T @ x).lower(x).compile(compiler_options=gpu_topology.OPTIONS)
    assert "all-reduce" in program.as_text()
    assert program.memory_analysis().argument_size_in_bytes == 1024 * 4096 * 2 / 8


@pytest.mark.parametrize("name", ["a100:8", "h100:0", "h100:2x2", "v5p:2x2x1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(OlaError, match=r"expected a GPU and how many, such as h100:8; known: h100, h200"):
        gpu_topology.find_topology(name)


def test_without_the_plugin_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: str) -> None:
        raise NotImplementedError("topology not implemented for cuda")  # what JAX says without it

    monkeypatch.setattr(gpu_topology.topologies, "get_topology_desc", missing)
    with pytest.raises(OlaError, match=r"topology not implemented for cuda; expected .*aot-cuda"):
        gpu_topology.find_topology("h100:8")
