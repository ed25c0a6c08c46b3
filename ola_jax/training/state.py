"""What training carries from step to step, split into trainable and frozen parameters."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.models.ola import abstract_params
from ola_jax.sharding import parameter_shardings, parameter_spec
from ola_jax.training import health, lora
from ola_jax.training.health import Health
from ola_jax.training.lora import LoraConfig
from ola_jax.typing import Array, Params

HOST = "pinned_host"  # JAX's name of the memory of a device's host


@struct.dataclass
class TrainState:
    """Parameters are flat dicts {path: array}, a path such as "llm/layers/mlp/up_proj/kernel".

    Frozen ones have no optimizer state and keep their storage dtype. In the place of arrays there may
    be their shapes or shardings.
    """

    step: Any  # int32[]
    trainable: dict[str, Any]
    frozen: dict[str, Any]
    opt_state: optax.OptState
    health: Health

    @property
    def params(self) -> Params:
        """The whole tree, as the model wants it."""
        return join(self.trainable, self.frozen)


def split(params: Params, trainable: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
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


def join(trainable: dict[str, Any], frozen: dict[str, Any]) -> Params:
    """The nested tree of both."""
    return traverse_util.unflatten_dict(trainable | frozen, sep="/")


def create(
    params: Params,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    shardings: TrainState | None = None,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    seed: int = 0,
) -> TrainState:
    """State of step 0, split as `shardings` say. Trainable parameters become float32.

    `seed`: of what adapters start with.
    """
    chosen, frozen = split(params, trainable)

    def start(
        chosen: dict[str, Array], frozen: dict[str, Array]
    ) -> tuple[Array, dict[str, Array], optax.OptState]:
        chosen = {path: jnp.asarray(value, jnp.float32) for path, value in chosen.items()}
        chosen |= lora.init(frozen, adapters, seed)
        return jnp.int32(0), chosen, optimizer.init(chosen)

    if shardings is not None:
        out = (shardings.step, shardings.trainable, shardings.opt_state)
        start = jax.jit(start, out_shardings=out)
        frozen = jax.device_put(frozen, shardings.frozen)
    step, chosen, opt_state = start(chosen, frozen)
    now = health.start() if shardings is None else jax.device_put(health.start(), shardings.health)
    return TrainState(step=step, trainable=chosen, frozen=frozen, opt_state=opt_state, health=now)


def shard(
    config: OlaConfig,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    offload: bool = False,
) -> tuple[TrainState, TrainState]:
    """(abstract state, its shardings): what a state will be, before any of it exists.

    Frozen parameters have the dtype they are stored in, which is not known here: float32 stands for it.
    What the optimizer keeps for a parameter, in the parameter's shape, is split as the parameter; with
    `offload` it is in the memory of the device's host.
    """
    boxed = abstract_params(config)
    abstract = jax.eval_shape(lambda p: create(p, trainable, optimizer, None, adapters), nn.unbox(boxed))
    of_path = traverse_util.flatten_dict(parameter_shardings(boxed, mesh), sep="/")
    for path, leaf in abstract.trainable.items():
        if path.startswith("lora/"):
            names = ("layers", *[None] * (leaf.ndim - 1))
            of_path[path] = NamedSharding(mesh, parameter_spec(names, leaf.shape, mesh.shape))
    whole = NamedSharding(mesh, PartitionSpec())

    def of(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
        found = of_path.get(names[-1]) if names else None
        shape = (abstract.trainable | abstract.frozen)[names[-1]].shape if found else None
        return found if found and shape == leaf.shape else whole

    shardings = jax.tree_util.tree_map_with_path(of, abstract)
    if offload:
        to_host = lambda leaf, place: place.with_memory_kind(HOST) if leaf.ndim else place
        shardings = shardings.replace(
            opt_state=jax.tree.map(to_host, abstract.opt_state, shardings.opt_state)
        )
    return abstract, shardings


def bring(opt_state: optax.OptState, shardings: optax.OptState) -> optax.OptState:
    """The optimizer's state with all that is in the host's memory brought to the device (within jit)."""

    def of(x: Array, place: NamedSharding) -> Array:
        return jax.device_put(x, place.with_memory_kind("device")) if place.memory_kind == HOST else x

    return jax.tree.map(of, opt_state, shardings)
