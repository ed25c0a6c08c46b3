"""Inputs, and the formula in float64, for the tests of the pooling kernels."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from ola_jax.kernels.local_global_pool import PoolParams, local_global_pool


def inputs(
    groups: int, members: int, width: int, dtype: str = "float32", *, scale: float = 1.0, seed: int = 0
):
    """x, parameters, and a gradient of the output."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape, scale: jnp.asarray(rng.normal(scale=scale, size=shape), dtype)
    params = PoolParams(
        draw(2 * width, width, scale=scale * width**-0.5),
        draw(width, scale=0.1),
        draw(width, width, scale=3 * scale * width**-0.5),
    )
    return draw(groups, members, width, scale=scale), params, draw(groups, width, scale=1.0)


def with_raised_scores(params: PoolParams, by: float) -> PoolParams:
    """Parameters whose scores are all higher by `by`, through a constant unit of the hidden layer."""
    return PoolParams(
        params.kernel1.at[:, 0].set(0),
        params.bias1.at[0].set(8),  # gelu(8) = 8
        params.kernel2.at[0].set(by / 8),
    )


def in_float64(x, params):
    """The formula in the form of the original, in float64."""
    x, kernel1, bias1, kernel2 = (np.asarray(a, np.float64) for a in (x, *params))
    pairs = np.concatenate([x, np.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)], axis=-1)
    hidden = pairs @ kernel1 + bias1
    scores = (0.5 * hidden * (1 + erf(hidden / np.sqrt(2)))) @ kernel2
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (x * exponentials).sum(axis=1) / exponentials.sum(axis=1)


def distance(actual, expected) -> float:
    """Norm of the difference, relative to that of `expected`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30))


def with_gradients(x, params, grad, implementation, kernels="tpu"):
    """Output, gradient of x, gradients of the parameters."""
    pool = lambda x, params: local_global_pool(
        x, params, implementation=implementation, interpret=True, kernels=kernels
    )
    out, pull = jax.vjp(pool, x, params)
    return (out, *jax.tree.leaves(pull(grad)))
