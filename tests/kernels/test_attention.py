"""The TPU kernel, interpreted, against the plain form; both on a mesh against one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.errors import OlaError
from ola_jax.kernels.attention import ENCODER_AXES, packed_attention
from ola_jax.kernels.segment_blocks import computed_blocks
from ola_jax.sharding import MeshConfig
from tests.kernels.inputs import packed_inputs


def sorted_segments(rows: int, length: int) -> np.ndarray:
    """Samples 1, 2, 3 of uneven lengths in each row, then padding; as our batches have them."""
    rng = np.random.default_rng(1)
    lengths = rng.dirichlet(np.ones(4), rows).cumsum(axis=1)[:, :3] * length
    number = 1 + (np.arange(length) >= lengths[..., None]).sum(axis=1)
    return np.where(number == 4, 0, number).astype(np.int32)


@functools.cache
def inputs(rows: int, length: int, heads: int, kv_heads: int, width: int = 16) -> tuple:
    rng = np.random.default_rng(0)
    normal = lambda n: rng.normal(size=(rows, length, n, width)).astype(np.float32)
    return normal(heads), normal(kv_heads), normal(kv_heads), sorted_segments(rows, length)


def value_and_gradients(implementation: str, causal: bool, arrays: tuple, axes: tuple | None = None) -> tuple:
    """Outputs and gradients, without padding, whose outputs have no meaning."""
    q, k, v, segments = arrays
    how = {"axes": axes} if axes else {}

    @jax.jit
    def function(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple:
        attend = lambda q, k, v: packed_attention(
            packed_inputs(q, k, v, segments, segments, causal), implementation=implementation, **how
        )
        out, pull = jax.vjp(attend, q, k, v)
        kept = (segments > 0)[..., None, None]
        return out, pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape) * kept)

    out, gradients = function(q, k, v)
    assert np.isfinite(out).all()
    return np.where((segments > 0)[..., None, None], out, 0), gradients


def assert_equal(actual: tuple, expected: tuple) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=2e-5 * np.abs(e).max())


@pytest.mark.parametrize(
    ("causal", "length", "heads", "kv_heads", "width"),
    [(True, 1024, 4, 2, 16), (False, 150, 2, 2, 72), (False, 1100, 1, 1, 72), (True, 1536, 7, 1, 8)],
    ids=["decoder", "encoder_padded", "encoder_many_blocks", "seven_heads_share_a_key"],
)
def test_splash_equals_the_plain_form_forward_and_backward(
    causal: bool, length: int, heads: int, kv_heads: int, width: int
) -> None:
    arrays = inputs(2, length, heads, kv_heads, width)
    assert_equal(value_and_gradients("splash", causal, arrays), value_and_gradients("xla", causal, arrays))


@pytest.mark.parametrize("causal", [True, False])
def test_segments_may_have_any_order_and_padding_any_place(causal: bool) -> None:
    q, k, v, _ = inputs(2, 1536, 1, 1, 8)
    rng = np.random.default_rng(2)
    scattered = rng.integers(0, 5, 1536)  # single tokens
    blocks = np.repeat([3, 0, 1, 0, 2, 3, 0, 9], 192)  # whole blocks of padding in between
    segments = np.stack([scattered, blocks]).astype(np.int32)
    arrays = q, k, v, segments
    assert_equal(value_and_gradients("splash", causal, arrays), value_and_gradients("xla", causal, arrays))


def test_rows_of_padding_alone_are_finite() -> None:
    q, k, v, segments = inputs(2, 1024, 1, 1, 8)
    out, gradients = value_and_gradients("splash", True, (q, k, v, np.zeros_like(segments)))
    assert not out.any()
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_without_a_pair_are_not_computed(causal: bool) -> None:
    length, block = 96, 8
    for segments in sorted_segments(20, length):
        pairs = (segments[:, None] == segments) & (segments > 0)
        if causal:
            pairs &= np.tri(length, dtype=bool)
        needed = pairs.reshape(length // block, block, -1, block).any(axis=(1, 3))
        padding = ~needed.any(axis=1)
        expected = needed | np.diag(padding)
        np.testing.assert_array_equal(
            computed_blocks(
                jnp.asarray(segments), jnp.asarray(segments), block_q=block, block_k=block, causal=causal
            ),
            expected,
        )


def test_skipped_blocks_are_not_read() -> None:
    """Keys and values of another sample may even be NaN: their block never meets the query."""
    q, k, v, _ = inputs(1, 1024, 1, 1, 8)
    segments = np.repeat([1, 2], 512)[None].astype(np.int32)
    spoil = lambda x: np.where((segments == 2)[..., None, None], np.nan, x).astype(np.float32)
    attend = lambda k, v: packed_attention(
        packed_inputs(q, k, v, segments, segments, False), implementation="splash"
    )
    np.testing.assert_array_equal(attend(spoil(k), spoil(v))[:, :512], attend(k, v)[:, :512])


@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_a_mesh_changes_nothing(implementation: str) -> None:
    arrays = inputs(2, 1024 if implementation == "splash" else 256, 4, 2)
    expected = value_and_gradients("xla", True, arrays)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, context=2))):
        assert_equal(value_and_gradients(implementation, True, arrays), expected)


def test_windows_are_shared_out_among_all_devices() -> None:
    arrays = inputs(8, 24, 2, 2)
    segments = arrays[3]
    expected = value_and_gradients("xla", False, arrays)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(fsdp=2, tensor=2, context=2))):
        assert_equal(value_and_gradients("xla", False, arrays, ENCODER_AXES), expected)
        out = jax.jit(
            lambda q, k, v: packed_attention(
                packed_inputs(q, k, v, segments, segments, False), axes=ENCODER_AXES
            )
        )
        assert {shard.data.shape[0] for shard in out(*arrays[:3]).addressable_shards} == {1}


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
