"""Local-global attention pooling on TPU: products whose epilogues do everything else, forward and backward.

One kernel (tpu_product.py) is used three times:

    forward    hidden = gelu(W1x x + W1g mean + b1)            with the sum before GELU, for the backward pass
               pooled = sum of x * softmax(W2 hidden)          scores never leave VMEM
    backward   pre_grad = gelu'(pre_gelu) * (W2 scores_grad)   with hidden again, and the sum over members

The other products (gradients of the matrices and of x) are left to the compiler, which fuses what is
elementwise into them. Nothing is multiplied twice: a group of four costs 18 D^2 FLOPs forward, 36 D^2
backward; for that, two arrays of x's size are kept: the sums before GELU and the softmax's weights.

    n  members of a group       D   channels, a multiple of 128
    G  groups
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ola_jax.kernels.local_global_pool import SplitParams
from ola_jax.kernels.tpu_product import Ref, Tile, dot, product
from ola_jax.typing import Array, Float

SQRT_HALF = 0.5**0.5
INV_SQRT_2PI = 0.3989422804014327


class Saved(NamedTuple):
    """Results of the forward pass for the backward pass."""

    x: Float[Array, "n G D"]
    pre_gelu: Float[Array, "n G D"]
    weights: Float[Array, "n G D"]


def pool(
    x: Float[Array, "n G D"], params: SplitParams, *, interpret: bool = False, tile: Tile | None = None
) -> Float[Array, "G D"]:
    """Pooled groups, in x's dtype. `tile` is for tests; by default it is the best for the TPU."""
    return _forward(x, params, save=False, interpret=interpret, tile=tile)[0]


def pool_and_save(
    x: Float[Array, "n G D"], params: SplitParams, *, interpret: bool = False, tile: Tile | None = None
) -> tuple[Float[Array, "G D"], Saved]:
    """Pooled groups, and what the backward pass needs."""
    pooled, saved = _forward(x, params, save=True, interpret=interpret, tile=tile)
    assert saved is not None, "the forward pass has saved its results"
    return pooled, saved


def _forward(
    x: Float[Array, "n G D"], params: SplitParams, *, save: bool, interpret: bool, tile: Tile | None
) -> tuple[Float[Array, "G D"], Saved | None]:
    hidden, *pre_gelu = product(
        x,
        params.local_kernel,
        mean_kernel=params.mean_kernel,
        by_channel=(params.bias1,),
        outputs=(True,) * (1 + save),
        epilogue=hidden_epilogue,
        interpret=interpret,
        tile=tile,
        name="local_global_pool_hidden",
    )
    pooled, *weights = product(
        hidden,
        params.kernel2,
        by_member=(x,),
        outputs=(False, True)[: 1 + save],
        epilogue=pooled_epilogue,
        interpret=interpret,
        tile=tile,
        name="local_global_pool",
    )
    return pooled, Saved(x, pre_gelu[0], weights[0]) if save else None


def pool_backward(
    saved: Saved,
    params: SplitParams,
    grad: Float[Array, "G D"],
    *,
    interpret: bool = False,
    tile: Tile | None = None,
) -> tuple[Float[Array, "n G D"], SplitParams]:
    """Gradients of x (in its dtype) and of the parameters (in float32)."""
    x, pre_gelu, weights = saved
    scores_grad, mean = scores_gradient(x, weights, grad, interpret=interpret)
    pre_grad, hidden, sum_grad = product(
        scores_grad,
        params.kernel2,
        transposed=True,
        by_member=(pre_gelu,),
        outputs=(True, True, False),
        epilogue=pre_gelu_gradient_epilogue,
        interpret=interpret,
        tile=tile,
        name="local_global_pool_hidden_gradient",
    )
    exact = lambda a: a.astype(jnp.float32)
    rows = lambda a: a.reshape(-1, a.shape[-1])
    through_mean = (dot(sum_grad, params.mean_kernel, (1, 1)) / len(x)).astype(x.dtype)
    through_local = dot(rows(pre_grad), params.local_kernel, (1, 1)).reshape(x.shape)
    x_grad = (exact(weights) * exact(grad) + through_local + exact(through_mean)).astype(x.dtype)
    params_grad = SplitParams(
        local_kernel=dot(rows(x), rows(pre_grad), (0, 0)),
        mean_kernel=dot(mean, sum_grad, (0, 0)),
        bias1=exact(sum_grad).sum(axis=0),
        kernel2=dot(rows(hidden), rows(scores_grad), (0, 0)),
    )
    return x_grad, params_grad


def scores_gradient(
    x: Float[Array, "n G D"], weights: Float[Array, "n G D"], grad: Float[Array, "G D"], *, interpret: bool
) -> tuple[Float[Array, "n G D"], Float[Array, "G D"]]:
    """The gradient of the scores, and the means of the groups, in one pass over the members."""
    members, groups, width = x.shape
    packed = 32 // x.dtype.itemsize  # rows of one register tile
    of_members = pl.BlockSpec((members, packed, width), lambda i: (0, i, 0))
    of_groups = pl.BlockSpec((packed, width), lambda i: (i, 0))

    def run(x_ref: Ref, weights_ref: Ref, grad_ref: Ref, scores_grad: Ref, mean: Ref) -> None:
        x, weights, grad = (ref[...].astype(jnp.float32) for ref in (x_ref, weights_ref, grad_ref))
        pooled = (weights * x).sum(axis=0)
        scores_grad[...] = (weights * grad * (x - pooled)).astype(scores_grad.dtype)
        mean[...] = x.mean(axis=0).astype(mean.dtype)

    scores_grad, mean = pl.pallas_call(
        run,
        grid=(pl.cdiv(groups, packed),),
        in_specs=[of_members, of_members, of_groups],
        out_specs=[of_members, of_groups],
        out_shape=[jax.ShapeDtypeStruct(a.shape, x.dtype) for a in (x, grad)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=pl.CostEstimate(
            flops=8 * x.size,
            transcendentals=0,
            bytes_accessed=(3 * x.size + 2 * grad.size) * x.dtype.itemsize,
        ),
        interpret=interpret,
        name="local_global_pool_scores_gradient",
    )(x, weights, grad)
    return scores_grad, mean


def hidden_epilogue(
    total: Float[Array, "n g h"], bias1: Float[Array, "1 h"]
) -> tuple[Float[Array, "n g h"], Float[Array, "n g h"]]:
    """The hidden layer, and the sums before GELU."""
    pre_gelu = total + bias1
    return 0.5 * pre_gelu * (1 + jax.lax.erf(pre_gelu * SQRT_HALF)), pre_gelu


def pooled_epilogue(
    scores: Float[Array, "n g d"], x: Float[Array, "n g d"]
) -> tuple[Float[Array, "g d"], Float[Array, "n g d"]]:
    """The pooled groups, and the weights of their members."""
    exponentials = jnp.exp(scores - scores.max(axis=0))
    weights = exponentials / exponentials.sum(axis=0)
    return (weights * x).sum(axis=0), weights


def pre_gelu_gradient_epilogue(
    hidden_grad: Float[Array, "n g h"], pre_gelu: Float[Array, "n g h"]
) -> tuple[Float[Array, "n g h"], Float[Array, "n g h"], Float[Array, "g h"]]:
    """The gradient before GELU, the hidden layer, and the gradient's sum over members."""
    cumulative = 0.5 * (1 + jax.lax.erf(pre_gelu * SQRT_HALF))
    slope = cumulative + pre_gelu * jnp.exp(-0.5 * pre_gelu * pre_gelu) * INV_SQRT_2PI
    pre_grad = hidden_grad * slope
    return pre_grad, pre_gelu * cumulative, pre_grad.sum(axis=0)
