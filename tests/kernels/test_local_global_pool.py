"""The pooling kernels for TPUs against the reference and against float64, in interpret mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ola_jax.kernels import local_global_pool_tpu as tpu
from ola_jax.kernels import tpu_product
from ola_jax.kernels.local_global_pool import SplitParams, local_global_pool
from tests.kernels.pooling import distance, in_float64, inputs, with_gradients


@settings(max_examples=8, deadline=None)
@given(
    groups=st.integers(1, 40),
    members=st.integers(1, 6),
    width=st.sampled_from([8, 96, 128, 130, 256]),
    seed=st.integers(0, 2**31),
)
def test_the_kernels_equal_the_reference_at_any_size(groups, members, width, seed):
    x, params, grad = inputs(groups, members, width, seed=seed)
    kernel = with_gradients(x, params, grad, "pallas")
    reference = with_gradients(x, params, grad, "xla")
    size = max(float(jnp.linalg.norm(a)) for a in reference)  # with one member some gradients are zero
    for actual, expected in zip(kernel, reference, strict=True):
        assert actual.shape == expected.shape
        assert float(jnp.linalg.norm(actual - expected)) < 1e-5 * max(
            float(jnp.linalg.norm(expected)), size / 10
        )


@pytest.mark.parametrize("implementation", ["pallas", "xla"])
def test_both_forms_equal_the_formula_in_float64(implementation):
    x, params, _ = inputs(50, 4, 96)
    pooled = local_global_pool(x, params, implementation=implementation, interpret=True)
    assert distance(pooled, in_float64(x, params)) < 1e-6


def test_gradients_equal_differences_of_the_formula_in_float64():
    x, params, grad = inputs(6, 4, 24)
    _, *gradients = with_gradients(x, params, grad, "pallas")
    along = inputs(6, 4, 24, seed=1)
    direction = (along[0], *along[1])
    step = 1e-5
    moved = lambda sign: [
        np.asarray(a, np.float64) + sign * step * np.asarray(d, np.float64)
        for a, d in zip((x, *params), direction, strict=True)
    ]
    total = lambda arrays: float((in_float64(arrays[0], arrays[1:]) * np.asarray(grad, np.float64)).sum())
    expected = (total(moved(1)) - total(moved(-1))) / (2 * step)
    actual = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert abs(actual - expected) < 1e-4 * abs(expected)


@pytest.mark.parametrize("implementation", ["pallas", "xla"])
def test_scores_that_overflow_a_naive_softmax_stay_finite(implementation):
    x, params, grad = inputs(9, 4, 128, scale=30.0)
    results = with_gradients(x, params, grad, implementation)
    assert all(bool(jnp.isfinite(a).all()) for a in results)
    assert distance(results[0], in_float64(x, params)) < 1e-3  # scores of several thousands, in float32


def test_bfloat16_sums_in_float32():
    x, params, grad = inputs(70, 4, 256, "bfloat16")
    kernel = with_gradients(x, params, grad, "pallas")
    exact = with_gradients(*jax.tree.map(lambda a: a.astype(jnp.float32), (x, params, grad)), "xla")
    assert [a.dtype for a in kernel] == [jnp.bfloat16] * 5
    assert distance(kernel[0], exact[0]) < 0.01
    assert all(distance(a, b) < 0.02 for a, b in zip(kernel, exact, strict=True))


@pytest.mark.parametrize("tile", [(8, 128, 256), (24, 128, 128), (24, 256, 128)])
def test_several_tiles_with_a_partial_last_one_equal_the_reference(tile):
    x, params, grad = inputs(53, 4, 256)
    members = jnp.swapaxes(x, 0, 1)
    split = SplitParams(*jnp.split(params.kernel1, 2), params.bias1, params.kernel2)
    tile = tpu_product.Tile(*tile)
    expected = with_gradients(x, params, grad, "xla")
    assert distance(tpu.pool(members, split, interpret=True, tile=tile), expected[0]) < 1e-5
    _, saved = tpu.pool_and_save(members, split, interpret=True, tile=tile)
    x_grad, grads = tpu.pool_backward(saved, split, grad, interpret=True, tile=tile)
    kernel1_grad = jnp.concatenate([grads.local_kernel, grads.mean_kernel])
    actual = jnp.swapaxes(x_grad, 0, 1), kernel1_grad, grads.bias1, grads.kernel2
    assert all(distance(a, b) < 1e-5 for a, b in zip(actual, expected[1:], strict=True))


@pytest.mark.parametrize("width", [1152, 3584])
def test_more_memory_for_tiles_moves_fewer_bytes(width):
    problem = tpu_product.Problem(4, 4096, width, width, itemsize=2, matrices=2, tiles=2, rows=0)
    tiles = [tpu_product.choose_tile(problem, mib * 2**20) for mib in (1, 16, 64, 128)]
    moved = [tpu_product.moved_bytes(problem, tile) for tile in tiles]
    assert moved == sorted(moved, reverse=True)
    assert moved[1] < moved[0] / 2
    for tile in tiles:
        assert width % tile.channels == width % tile.depth == 0
        assert tile.groups % 16 == 0
