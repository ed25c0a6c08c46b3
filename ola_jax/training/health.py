"""Bad steps: no labelled token, a loss or gradient that is not finite, or a loss far above its running mean.

This is decided within the compiled step, from numbers that are the same on all devices, so that the update
of a bad step is never applied. The statistics are part of the training state: a resumed run decides in the
same way.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import struct

from ola_jax.typing import Array, Bool, Float

WINDOW = 50  # good steps of the running mean; before there are as many, no loss counts as a spike


class Health(struct.PyTreeNode):
    """Statistics of the steps so far: scalars, or their shapes or shardings."""

    loss_mean: Any  # float32[]: running mean over good steps
    good_steps: Any  # int32[]
    bad_steps: Any  # int32[]


def init_health() -> Health:
    """The health before the first step."""
    return Health(loss_mean=jnp.float32(0), good_steps=jnp.int32(0), bad_steps=jnp.int32(0))


def describe_bad_step(loss: float, grad_norm: float, targets: int) -> str:
    """The reason why a step is bad, from its figures."""
    if not targets:
        return "no labelled token in the batch"
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}" + (" (a spike)" if finite else "")


def judge(
    health: Health, loss: Float[Array, ""], grad_norm: Float[Array, ""], *, spike_factor: float | None
) -> tuple[Bool[Array, ""], Health]:
    """Judges a step: returns True if it is good, and the health after it.

    A step without labelled tokens has the loss NaN. With `spike_factor`, a loss above that many times the
    running mean is bad, after WINDOW good steps.
    """
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if spike_factor is not None:
        good &= (health.good_steps < WINDOW) | (loss <= spike_factor * health.loss_mean)
    good_steps = health.good_steps + good
    share = 1 / jnp.clip(good_steps, 1, WINDOW)  # a plain mean at first, then an exponential one
    mean = health.loss_mean + jnp.where(good, share * (loss - health.loss_mean), 0.0)
    return good, Health(loss_mean=mean, good_steps=good_steps, bad_steps=health.bad_steps + ~good)
