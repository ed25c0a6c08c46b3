"""The TPU's own compiler takes the attention kernel, its blocks skipped by segments, without a TPU."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ola_jax.kernels.attention import packed_attention
from ola_jax.kernels.attention_inputs import PackedInputs
from tests.kernels.test_local_global_pool_compiles import mesh

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install libtpu"
)
GIB = 2**30


def compiled(generation: str, rows: int, length: int, heads: int, kv_heads: int, width: int, causal: bool):
    """Forward and backward."""
    here = NamedSharding(mesh(generation), PartitionSpec())
    of = lambda *shape, dtype="bfloat16": jax.ShapeDtypeStruct(shape, dtype, sharding=here)
    attend = lambda q, k, v, segments: packed_attention(PackedInputs(q, k, v, segments, segments, causal))
    total = lambda *arrays: attend(*arrays).astype(jnp.float32).sum()
    q, k = of(rows, length, heads, width), of(rows, length, kv_heads, width)
    with jax.sharding.use_abstract_mesh(mesh(generation).abstract_mesh):
        step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
        return step.lower(q, k, k, of(rows, length, dtype="int32")).compile()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("generation", ["v5e", "v6e"])
def test_forward_and_backward_compile_for(generation: str, rows: int) -> None:
    assert compiled(generation, rows, 1024, 4, 2, 72, causal=True).as_text().count("tpu_custom_call") == 3


@pytest.mark.slow
@pytest.mark.parametrize("generation", ["v4", "v5e", "v5p", "v6e", "tpu7x"])
def test_ola_7b_compiles_in_little_memory_for(generation: str) -> None:
    decoder = compiled(generation, 1, 16_384, 28, 4, 128, causal=True)
    assert decoder.memory_analysis().temp_size_in_bytes < GIB  # the scores alone would be 28 GiB
    vision = compiled(generation, 6, 9216, 16, 16, 72, causal=False)
    assert vision.memory_analysis().temp_size_in_bytes < 1.5 * GIB
