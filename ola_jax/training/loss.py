"""Cross-entropy over the labelled tokens, the logits never whole in memory."""

import jax
import jax.numpy as jnp

from ola_jax.batch import IGNORE
from ola_jax.typing import Array, Float, Int


def cross_entropy(
    hidden: Float[Array, "B L D"],
    output_kernel: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    chunk: int = 1024,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of the negative log-likelihoods of all targets but IGNORE, and their number.

    Logits exist for `chunk` tokens at a time, in the forward and in the backward pass (computed
    twice). Products in hidden's dtype, sums in float32. Their quotient is the mean over the global
    batch (quirk T1).
    """
    x = hidden.reshape(-1, hidden.shape[-1])
    y = targets.reshape(-1)
    chunk = min(chunk, y.shape[0])
    rest = -y.shape[0] % chunk
    x = jnp.pad(x, ((0, rest), (0, 0))).reshape(-1, chunk, x.shape[-1])
    y = jnp.pad(y, (0, rest), constant_values=IGNORE).reshape(-1, chunk)

    @jax.checkpoint
    def body(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        x, y = inputs
        logits = (x @ output_kernel.astype(x.dtype)).astype(jnp.float32)
        picked = jnp.take_along_axis(logits, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]
        losses = jax.nn.logsumexp(logits, axis=-1) - picked
        return total + jnp.where(y != IGNORE, losses, 0.0).sum(), None

    total, _ = jax.lax.scan(body, jnp.float32(0), (x, y))
    return total, (y != IGNORE).sum()
