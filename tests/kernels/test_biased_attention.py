import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.kernels.biased_attention import QUERY_BLOCK, biased_attention


def attend(q: jax.Array, k: jax.Array, v: jax.Array, gate: jax.Array, bias: jax.Array) -> jax.Array:
    return biased_attention(q, k, v, gate=gate, bias=bias)


def inputs(length: int, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(length)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    q, k, v = (normal(2, length, 3, 8) for _ in range(3))
    return q * scale, k, v, normal(2, length, 3), normal(3, length, length)


def definition(q: np.ndarray, k: np.ndarray, v: np.ndarray, gate: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The formula with all scores at once, in the dtype of its inputs."""
    scores = (
        np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + np.moveaxis(gate, 2, 1)[..., None] * bias
    )
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["ordinary", "large_scores"])
@pytest.mark.parametrize("length", [5, QUERY_BLOCK, 2 * QUERY_BLOCK + 21])
def test_it_equals_the_definition(length: int, scale: float) -> None:
    arrays = inputs(length, scale)
    expected = definition(*(x.astype(np.float64) for x in arrays))
    actual = attend(*map(jnp.asarray, arrays))
    np.testing.assert_allclose(actual, expected, atol=2e-6 * max(1.0, scale / 3))


def test_gradients_equal_differences_of_the_definition() -> None:
    """Derivatives in float64, along one direction of each input."""
    arrays = [x.astype(np.float64) for x in inputs(QUERY_BLOCK + 9)]
    weights = np.cos(np.arange(arrays[0].size)).reshape(arrays[0].shape)
    total = lambda *x: (attend(*x) * weights).sum()
    gradients = jax.jit(jax.grad(total, range(5)))(*(x.astype(np.float32) for x in arrays))
    for number, gradient in enumerate(gradients):
        step = np.random.default_rng(number).normal(size=gradient.shape) * 1e-4
        moved = lambda sign, n=number, step=step: (
            definition(*(x + sign * step * (m == n) if m == n else x for m, x in enumerate(arrays))) * weights
        ).sum()
        expected = (moved(1) - moved(-1)) / 2
        scale = np.abs(gradient).max() * np.linalg.norm(step)
        assert abs(np.vdot(gradient, step) - expected) < 1e-4 * scale


def test_long_inputs_never_have_all_their_scores_in_memory() -> None:
    length = 2 * QUERY_BLOCK
    arrays = inputs(length)
    text = jax.jit(jax.grad(lambda *x: attend(*x).sum())).lower(*arrays).as_text()
    assert f"2x3x{QUERY_BLOCK}x{length}xf32" in text
    assert f"2x3x{length}x{length}" not in text
