"""Remat policies: what a layer keeps for its backward pass; the rest is recomputed.

From the least memory to the most, with bytes of a token and layer of Ola-7b in bfloat16:

    full         the layer's input                                               7 kB
    attention    also attention's output and the sums of its softmax           + 7 kB
    projections  also queries, keys, values and the input of the MLP          + 16 kB
    gate         also the gate of the MLP                                     + 38 kB
    dots         every product with a weight matrix, and attention's output   + 38 kB
    none         everything

The decoder names what the policies between keep; encoders name attention's output only. A layer's last
product is recomputed by none of them, as no gradient needs its result.
"""

from collections.abc import Callable
from typing import Any

import jax

from ola_jax.config import Remat
from ola_jax.kernels.attention_inputs import RESIDUALS

POLICIES: tuple[Remat, ...] = ("full", "attention", "projections", "gate", "dots", "none")  # in this order
PROJECTIONS, GATE = "projections", "gate"  # names of what the decoder's layers keep


def checkpoint_policy(remat: Remat) -> Callable[..., Any] | None:
    """The policy for jax.checkpoint; None keeps nothing. Not for "none", which needs no checkpoint."""
    policies = jax.checkpoint_policies
    if remat == "dots":
        attention = policies.save_only_these_names(RESIDUALS)
        return policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention)
    names = {
        "attention": (RESIDUALS,),
        "projections": (RESIDUALS, PROJECTIONS),
        "gate": (RESIDUALS, PROJECTIONS, GATE),
    }
    return policies.save_only_these_names(*names[remat]) if remat in names else None
