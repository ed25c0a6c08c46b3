"""Block by block against all scores at once, and both against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.kernels import attention_xla
from tests.kernels.inputs import packed_inputs
from tests.kernels.test_attention import assert_equal


def arrays(seed: int, length: int, keys: int, groups: int, kv_heads: int, rows: int = 2) -> tuple:
    rng = np.random.default_rng(seed)
    normal = lambda n, heads: rng.normal(size=(rows, n, heads, 8)).astype(np.float32)
    return normal(length, groups * kv_heads), normal(keys, kv_heads), normal(keys, kv_heads)


def value_and_gradients(form, q, k, v, segments: np.ndarray, causal: bool, offset: int = 0, **how) -> tuple:
    """Outputs and gradients without padding; there may be keys before the queries (`offset`)."""
    q_segments = segments[:, offset : offset + q.shape[1]]
    run = lambda q, k, v: form(packed_inputs(q, k, v, q_segments, segments, causal, offset), **how)
    out, pull = jax.vjp(jax.jit(run), q, k, v)
    kept = (q_segments > 0)[..., None, None]
    weights = np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape)
    return np.where(kept, out, 0), pull(jnp.asarray(weights * kept, out.dtype))


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, segments: np.ndarray, causal: bool) -> np.ndarray:
    """The definition in float64, for queries and keys of the same places."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("blhd,bshd->bhls", q, k) * q.shape[-1] ** -0.5
    allowed = segments[:, None, :, None] == segments[:, None, None, :]
    if causal:
        allowed &= np.tri(q.shape[1], dtype=bool)
    weights = np.exp(np.where(allowed, scores, -np.inf))
    return np.einsum("bhls,bshd->blhd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("length", "groups", "kv_heads", "in_order"),
    [(1, 1, 1, True), (8, 2, 1, False), (37, 3, 2, True), (40, 1, 2, False)],
)
def test_blocks_change_nothing(length: int, groups: int, kv_heads: int, in_order: bool, causal: bool) -> None:
    seed = length
    q, k, v = arrays(seed, length, length, groups, kv_heads)
    segments = np.random.default_rng(seed).integers(0, 4, (2, length)).astype(np.int32)
    if in_order:
        segments = np.sort(segments)[:, ::-1].copy()  # padding last
    expected = value_and_gradients(attention_xla.attend_unblocked, q, k, v, segments, causal)
    np.testing.assert_allclose(
        expected[0],
        np.where((segments > 0)[..., None, None], reference(q, k, v, segments, causal), 0),
        atol=2e-6,
    )
    actual = value_and_gradients(attention_xla.attend_in_blocks, q, k, v, segments, causal, block=8)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_queries_may_stand_behind_other_keys() -> None:
    q, k, v = arrays(0, 20, 50, 2, 1)
    segments = np.ones((2, 50), np.int32)
    of = lambda form, **how: value_and_gradients(form, q, k, v, segments, True, offset=17, **how)
    assert_equal(of(attention_xla.attend_in_blocks, block=8), of(attention_xla.attend_unblocked))


def test_scores_that_overflow_a_naive_softmax_do_no_harm() -> None:
    q, k, v = arrays(1, 32, 32, 1, 1)
    segments = np.ones((2, 32), np.int32)
    of = lambda form, **how: value_and_gradients(form, 1e3 * q, k, v, segments, False, **how)
    (out, gradients), (expected, _) = (
        of(attention_xla.attend_in_blocks, block=8),
        of(attention_xla.attend_unblocked),
    )
    assert_equal(out, expected)
    assert all(np.isfinite(g).all() for g in gradients)


def test_half_precision_errs_no_more_than_the_whole_does() -> None:
    q, k, v = arrays(2, 64, 64, 2, 2)
    segments = np.repeat([1, 2, 3, 0], 16)[None].repeat(2, 0).astype(np.int32)
    half = [x.astype(jnp.bfloat16) for x in map(jnp.asarray, (q, k, v))]
    exact = np.where((segments > 0)[..., None, None], reference(q, k, v, segments, True), 0)
    error = lambda form, **how: np.abs(
        np.asarray(value_and_gradients(form, *half, segments, True, **how)[0], np.float64) - exact
    ).max()
    assert error(attention_xla.attend_in_blocks, block=16) < 1.5 * error(attention_xla.attend_unblocked)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_without_a_pair_are_not_computed(causal: bool) -> None:
    """Keys of another sample may even be NaN: their block never meets the query."""
    q, k, v = arrays(3, 32, 32, 1, 1, rows=1)
    segments = np.repeat([1, 2], 16)[None].astype(np.int32)
    spoilt = lambda x: np.where((segments == 2)[..., None, None], np.nan, x)
    out = attention_xla.attend_in_blocks(
        packed_inputs(q, spoilt(k), spoilt(v), segments, segments, causal), block=8
    )
    assert np.isfinite(out[:, :16]).all()


def test_long_inputs_never_have_all_their_scores_in_memory() -> None:
    length = 2 * attention_xla.BLOCK
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    attend = lambda q, s: attention_xla.attend(packed_inputs(q, q, q, s, s, True)).sum()
    text = (
        jax.jit(jax.grad(attend))
        .lower(of(1, length, 1, 8), jax.ShapeDtypeStruct((1, length), jnp.int32))
        .as_text()
    )
    assert f"{attention_xla.BLOCK_ON_CPU}x{attention_xla.BLOCK_ON_CPU}xf32" in text
    assert f"{length}x{length}" not in text
    assert f"{attention_xla.BLOCK_ON_CPU}x{length}" not in text
