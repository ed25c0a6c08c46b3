"""The TPU compiler accepts the pooling kernels for every generation, without a TPU."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ola_jax.kernels import tpu_product
from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool

TOPOLOGIES = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "tpu7x": "tpu7x:2x2x1",
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install libtpu"
)


@functools.cache
def mesh(generation: str) -> Mesh:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation])
    return Mesh(np.array(topology.devices[:1]), ("device",), axis_types=(AxisType.Auto,))


def compiled(generation: str, groups: int, width: int, dtype: str = "bfloat16"):
    """The program of forward and backward."""
    replicated = NamedSharding(mesh(generation), PartitionSpec())
    abstract = lambda *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=replicated)
    total = lambda x, params: local_global_pool(x, params, implementation="pallas").astype(jnp.float32).sum()
    with jax.sharding.use_abstract_mesh(mesh(generation).abstract_mesh):
        params = PoolParams(abstract(2 * width, width), abstract(width), abstract(width, width))
        step = jax.jit(jax.value_and_grad(total, (0, 1)))
        return step.lower(abstract(groups, 4, width), params).compile()


@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_forward_and_backward_compile_for(generation: str) -> None:
    text = compiled(generation, groups=64, width=1152).as_text()
    assert text.count("tpu_custom_call") >= 3


def test_float32_and_channels_that_are_no_multiple_of_lanes_compile() -> None:
    compiled("v5e", groups=50, width=200, dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("groups", [64, 4096, 65536])
@pytest.mark.parametrize("width", [1152, 3584])
@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_all_sizes_of_ola_compile_for(generation: str, width: int, groups: int) -> None:
    compiled(generation, groups, width)


@pytest.mark.parametrize("generation", TOPOLOGIES)
def test_tiles_are_chosen_by_the_memory_of(generation: str) -> None:
    with jax.sharding.use_abstract_mesh(mesh(generation).abstract_mesh):
        vmem = tpu_product.target_vmem_bytes()
    expected = {"v4": 16, "v5e": 128, "v5p": 64, "v6e": 128, "tpu7x": 64}
    assert vmem == expected[generation] * 2**20
