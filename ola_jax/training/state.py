"""What training carries from step to step, split into trainable and frozen parameters."""

import re

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util

from ola_jax.errors import OlaError
from ola_jax.typing import Array, Int, Params


@struct.dataclass
class TrainState:
    """Parameters are flat dicts {path: array}, a path such as "llm/layers/mlp/up_proj/kernel".

    Frozen ones have no optimizer state and keep their storage dtype.
    """

    step: Int[Array, ""]
    trainable: dict[str, Array]
    frozen: dict[str, Array]
    opt_state: optax.OptState

    @property
    def params(self) -> Params:
        """The whole tree, as the model wants it."""
        return join(self.trainable, self.frozen)


def split(params: Params, trainable: tuple[str, ...]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(trainable, frozen) by regular expressions matched from the start of each path.

    Raises OlaError where a pattern matches no parameter.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in trainable:
        if not any(re.match(pattern, path) for path in flat):
            parts = ", ".join(sorted({path.split("/")[0] for path in flat}))
            raise OlaError(f"trainable: {pattern!r} matches no parameter; the model has {parts}")
    chosen = {path for path in flat if any(re.match(pattern, path) for pattern in trainable)}
    return {p: v for p, v in flat.items() if p in chosen}, {p: v for p, v in flat.items() if p not in chosen}


def join(trainable: dict[str, Array], frozen: dict[str, Array]) -> Params:
    """The nested tree of both."""
    return traverse_util.unflatten_dict(trainable | frozen, sep="/")


def create(params: Params, trainable: tuple[str, ...], optimizer: optax.GradientTransformation) -> TrainState:
    """State of step 0. Trainable parameters become float32."""
    chosen, frozen = split(params, trainable)
    chosen = {path: jnp.asarray(value, jnp.float32) for path, value in chosen.items()}
    start = TrainState(step=jnp.int32(0), trainable=chosen, frozen=frozen, opt_state=optimizer.init(chosen))
    # Committed to one device like what a step returns, or the second step would compile once more.
    return jax.device_put(start, jax.devices()[0])
