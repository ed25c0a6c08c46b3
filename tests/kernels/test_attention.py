"""The TPU kernel, interpreted, against the plain form; both on a mesh against one device."""

import functools

import jax
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.errors import OlaError
from ola_jax.kernels.attention import ENCODER_AXES, packed_attention
from ola_jax.sharding import MeshConfig


@functools.cache
def inputs(rows: int, length: int, heads: int, kv_heads: int, width: int = 16) -> tuple:
    rng = np.random.default_rng(0)
    normal = lambda n: rng.normal(size=(rows, length, n, width)).astype(np.float32)
    segments = np.sort(rng.integers(0, 4, (rows, length)), axis=1).astype(np.int32)
    return normal(heads), normal(kv_heads), normal(kv_heads), segments


def value_and_gradients(implementation: str, causal: bool, arrays: tuple, axes: tuple | None = None) -> tuple:
    q, k, v, segments = arrays
    how = {"axes": axes} if axes else {}

    @jax.jit
    def function(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple:
        attend = lambda q, k, v: packed_attention(
            q, k, v, segments, segments, causal=causal, implementation=implementation, **how
        )
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape))

    return function(q, k, v)


def assert_equal(actual: tuple, expected: tuple) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=2e-5 * np.abs(e).max())


@pytest.mark.parametrize(
    ("causal", "length", "heads", "kv_heads"),
    [(True, 256, 4, 2), (False, 150, 2, 2)],
    ids=["decoder", "encoder_padded"],
)
def test_splash_equals_the_plain_form_forward_and_backward(
    causal: bool, length: int, heads: int, kv_heads: int
) -> None:
    arrays = inputs(2, length, heads, kv_heads)
    assert_equal(value_and_gradients("splash", causal, arrays), value_and_gradients("xla", causal, arrays))


@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_a_mesh_changes_nothing(implementation: str) -> None:
    arrays = inputs(2, 256, 4, 2)
    expected = value_and_gradients("xla", True, arrays)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, context=2))):
        assert_equal(value_and_gradients(implementation, True, arrays), expected)


def test_windows_are_shared_out_among_all_devices() -> None:
    arrays = inputs(8, 24, 2, 2)
    expected = value_and_gradients("xla", False, arrays)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, context=2))):
        out = value_and_gradients("xla", False, arrays, ENCODER_AXES)
    assert_equal(out, expected)
    assert {shard.data.shape[0] for shard in out[0].addressable_shards} == {1}


def test_long_rows_go_through_in_blocks_of_queries_on_a_mesh_too() -> None:
    arrays = inputs(1, 2304, 1, 1, 8)
    expected = value_and_gradients("xla", True, arrays)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(context=2))):
        assert_equal(value_and_gradients("xla", True, arrays), expected)


def test_splash_tells_which_lengths_a_split_row_may_have() -> None:
    arrays = inputs(1, 160, 2, 2)
    with (
        jax.set_mesh(sharding.make_mesh(MeshConfig(context=2))),
        pytest.raises(OlaError, match="160 tokens over"),
    ):
        value_and_gradients("splash", True, arrays)
