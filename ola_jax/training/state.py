"""The state that training carries from step to step, split into trainable and frozen parameters."""

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
from ola_jax.training import health
from ola_jax.training.health import Health
from ola_jax.training.lora import Adapters, LoraConfig, init_adapters, name_trained, split_trained
from ola_jax.typing import AnyArray, Array, FlatParams, Params

HOST = "pinned_host"  # JAX's name of the memory of a device's host


class TrainState(struct.PyTreeNode):
    """Flat dicts of parameters, {path: array}, a path such as "llm/layers/mlp/up_proj/kernel".

    Frozen ones have no optimizer state and keep their storage dtype. Instead of arrays there may be their
    shapes or shardings.
    """

    step: Any  # int32[]
    trainable: FlatParams
    adapters: Adapters  # of frozen kernels
    frozen: FlatParams
    opt_state: optax.OptState  # by the names of `trained`
    health: Health

    @property
    def params(self) -> Params:
        """The model's parameters as a nested tree; adapters are not applied."""
        return join_params(self.trainable, self.frozen)

    @property
    def trained(self) -> FlatParams:
        """Trainable parameters and adapters by name, as the optimizer has them."""
        return name_trained(self.trainable, self.adapters)


def split_params(params: Params, trainable: tuple[str, ...]) -> tuple[FlatParams, FlatParams]:
    """Trainable and frozen parameters, by regular expressions matched from the start of each path.

    Raises OlaError if a pattern matches no parameter.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in trainable:
        if not any(re.match(pattern, path) for path in flat):
            parts = ", ".join(sorted({path.split("/")[0] for path in flat}))
            raise OlaError(f"trainable: {pattern!r} matches no parameter; the model has {parts}")
    chosen = {path for path in flat if any(re.match(pattern, path) for pattern in trainable)}
    return {p: v for p, v in flat.items() if p in chosen}, {p: v for p, v in flat.items() if p not in chosen}


def join_params(trainable: FlatParams, frozen: FlatParams) -> Params:
    """The nested tree of trainable and frozen parameters."""
    return traverse_util.unflatten_dict(trainable | frozen, sep="/")


def create(
    params: Params,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    *,
    shardings: TrainState | None = None,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    seed: int = 0,
) -> TrainState:
    """Creates the state of step 0, sharded by `shardings`. Trainable parameters become float32.

    `seed`: of the initial values of adapters.
    """
    chosen, frozen = split_params(params, trainable)

    def start(
        chosen: dict[str, AnyArray], frozen: dict[str, AnyArray]
    ) -> tuple[Array, FlatParams, Adapters, optax.OptState]:
        own = {path: jnp.asarray(value, jnp.float32) for path, value in chosen.items()}
        added = init_adapters(frozen, adapters, seed)
        return jnp.int32(0), own, added, optimizer.init(name_trained(own, added))

    if shardings is not None:
        out = (shardings.step, shardings.trainable, shardings.adapters, shardings.opt_state)
        start = jax.jit(start, out_shardings=out)
        frozen = jax.device_put(frozen, shardings.frozen)
    step, own, added, opt_state = start(chosen, frozen)
    now = (
        health.init_health() if shardings is None else jax.device_put(health.init_health(), shardings.health)
    )
    return TrainState(
        step=step, trainable=own, adapters=added, frozen=frozen, opt_state=opt_state, health=now
    )


def abstract_state(
    config: OlaConfig,
    trainable: tuple[str, ...],
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
    offload: bool = False,
) -> tuple[TrainState, TrainState]:
    """The abstract state and its shardings, before any array exists.

    Frozen parameters have the dtype they are stored in, which is not known here: float32 is used instead.
    Optimizer state in the shape of a parameter is sharded like the parameter; with `offload` it is in the
    memory of the device's host.
    """
    boxed = abstract_params(config)
    abstract = jax.eval_shape(
        lambda params: create(params, trainable, optimizer, adapters=adapters), nn.unbox(boxed)
    )
    shapes = {path: leaf.shape for path, leaf in (abstract.trained | abstract.frozen).items()}
    by_path = traverse_util.flatten_dict(parameter_shardings(boxed, mesh), sep="/")
    for name in abstract.trained.keys() - abstract.trainable.keys():
        axes = ("layers", *[None] * (len(shapes[name]) - 1))
        by_path[name] = NamedSharding(mesh, parameter_spec(axes, shapes[name], mesh.shape))
    replicated = NamedSharding(mesh, PartitionSpec())

    def find_sharding(keys: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        names = [key.key for key in keys if isinstance(key, jax.tree_util.DictKey)]
        like_parameter = bool(names) and shapes.get(names[-1]) == leaf.shape
        return by_path[names[-1]] if like_parameter else replicated

    shardings = jax.tree_util.tree_map_with_path(find_sharding, abstract)
    trained = {name: by_path[name] for name in abstract.trained}
    shardings = shardings.replace(adapters=split_trained(trained)[1])
    if offload:
        to_host = lambda leaf, sharding: sharding.with_memory_kind(HOST) if leaf.ndim else sharding
        shardings = shardings.replace(
            opt_state=jax.tree.map(to_host, abstract.opt_state, shardings.opt_state)
        )
    return abstract, shardings


def copy_to_device(opt_state: optax.OptState, shardings: optax.OptState) -> optax.OptState:
    """The optimizer's state, with arrays that are offloaded to the host copied to the device (within jit)."""

    def copy(x: Array, sharding: NamedSharding) -> Array:
        return jax.device_put(x, sharding.with_memory_kind("device")) if sharding.memory_kind == HOST else x

    return jax.tree.map(copy, opt_state, shardings)
