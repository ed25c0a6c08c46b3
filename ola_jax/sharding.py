"""The device mesh, and over which of its axes every parameter and activation is split.

Weights and optimizer state are split over `fsdp` and `context` (gathered where they are used) and over
`tensor` (never gathered); rows of a batch over `data` and `fsdp`; tokens of a row over `context`. Windows
and audio chunks belong to their row, and are shared out among all devices that work on it: encoders and
projectors never split a weight over `tensor`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ola_jax.batch import Budget, OlaBatch
from ola_jax.config import OlaConfig
from ola_jax.errors import OlaError
from ola_jax.typing import Array, Params, Shaped

AXES = ("data", "fsdp", "tensor", "context")

_ROW_AXES = ("tensor", "context")  # of devices that work on the same row

# The one table: logical axis -> mesh axes. What is not in it is whole on every device.
RULES = {
    # axes of activations
    "rows": ("data", "fsdp"),
    "copies": ("data",),  # rows that a copy of the weights works on
    "width": ("fsdp",),  # of the table of embeddings, and of tokens while they are looked up
    "windows": ("data", "fsdp", "tensor", "context"),  # windows or audio chunks of all rows
    "length": ("context",),
    # axes of parameters, and of activations made from them; all others: parameter_spec
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all that are left."""

    data: int = 1  # copies of the weights, each with its own rows
    fsdp: int = 1  # weights split, rows split
    tensor: int = 1  # heads, MLP and vocabulary split
    context: int = 1  # tokens of a row split


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `devices` (default: all); of fewer, the first, if one process has them all.

    Raises OlaError where the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [getattr(config, axis) for axis in AXES]
    asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise OlaError(f"mesh: {asked}; expected positive sizes, one of them may be -1 (what is left)")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if len(devices) % fixed:
            raise OlaError(f"mesh: {asked}; {len(devices)} devices cannot be divided by {fixed}")
        sizes[sizes.index(-1)] = len(devices) // fixed
    count = math.prod(sizes)
    if count > len(devices):
        raise OlaError(f"mesh: {asked}; needs {count} devices, found {len(devices)}")
    if count < len(devices) and len({d.process_index for d in devices}) > 1:
        raise OlaError(
            f"mesh: {asked}; uses {count} of {len(devices)} devices of several processes; set one axis to -1"
        )
    # Neighbours in a TPU's torus stay neighbours in the mesh.
    grid = mesh_utils.create_device_mesh(sizes, devices[:count], allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_size(*axes: str) -> int:
    """Devices along these mesh axes of the mesh that is set (jax.set_mesh); 1 where none is."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape.get(axis, 1) for axis in axes)


def no_mesh() -> contextlib.AbstractContextManager:
    """Leaves the mesh that is set: for batches that are too small to be split."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def platform() -> str:
    """Of the mesh that is set, or of JAX's default device: "tpu", "gpu" or "cpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def is_sharded() -> bool:
    """Whether a mesh of more than one device is set."""
    return axis_size(*AXES) > 1


def spec(*names: str | None) -> PartitionSpec:
    """How an activation with these logical axes is split."""
    return PartitionSpec(*[RULES.get(name) if name else None for name in names])


def constrain(x: Array, *names: str | None) -> Array:
    """`x` split by its logical axes on the mesh that is set; `x` itself where none is."""
    return jax.lax.with_sharding_constraint(x, spec(*names)) if is_sharded() else x


def gather(weight: Array, names: Sequence[str | None]) -> Array:
    """A weight whole over `fsdp` and `context`; its gradient is split again as the weight is.

    So the weights move (in the dtype they are used in), never the activations, and each gradient
    is reduced and scattered at once.
    """
    return _gather(weight, tuple(names)) if is_sharded() else weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gather(weight: Array, names: tuple[str | None, ...]) -> Array:
    return constrain(weight, *names)


def _gather_forward(weight: Array, names: tuple[str | None, ...]) -> tuple[Array, None]:
    return _gather(weight, names), None


def _gather_backward(names: tuple[str | None, ...], _: None, gradient: Array) -> tuple[Array]:
    mesh = jax.sharding.get_abstract_mesh()
    return (jax.lax.with_sharding_constraint(gradient, parameter_spec(names, gradient.shape, mesh.shape)),)


_gather.defvjp(_gather_forward, _gather_backward)


def parameter_spec(
    names: Sequence[str | None], shape: Sequence[int], mesh_shape: Mapping[str, int]
) -> PartitionSpec:
    """How a parameter is split: by its axis names, then over `fsdp` and `context`.

    These two go to the first axis that they divide (gradients are scattered best along it); layers
    are never split, vectors only over `tensor`.
    """
    parts: list[tuple[str, ...]] = [() for _ in shape]
    left = list(shape)

    inner = [place for place, name in enumerate(names) if name != "layers"]
    named = {axis: place for place in inner for axis in RULES.get(names[place], ())}
    for axis in ("tensor", "fsdp", "context"):
        places = [named[axis]] if axis in named else []
        if axis != "tensor" and len(inner) > 1:
            places += inner
        fitting = [place for place in places if left[place] % mesh_shape[axis] == 0]
        if fitting and mesh_shape[axis] > 1:
            parts[fitting[0]] += (axis,)
            left[fitting[0]] //= mesh_shape[axis]
    return PartitionSpec(*[part or None for part in parts])


def parameter_shardings(boxed: Params, mesh: Mesh) -> Params:
    """The sharding of every parameter, from a tree of (abstract) parameters with their axis names.

    Without names it is whole everywhere: a norm's vector, of one layer or stacked.
    """

    def of(leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        shape = nn.unbox(leaf).shape
        return NamedSharding(mesh, parameter_spec(leaf.names, shape, mesh.shape))

    return jax.tree.map(of, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def check(mesh: Mesh, config: OlaConfig, rows: int, budget: Budget) -> None:
    """Raises OlaError where `rows` (at a time) of `budget` or the decoder's heads do not fit the mesh."""
    shape = mesh.shape
    for what, number, axes in (
        ("rows of a microbatch", rows, ("data", "fsdp")),
        ("tokens of a row", budget.tokens, ("context",)),
        ("key/value heads", config.llm.num_kv_heads, ("tensor",)),
        ("entries of the vocabulary", config.llm.vocab_size, ("tensor",)),
        ("units of the MLP", config.llm.intermediate_size, ("tensor",)),
    ):
        if number == 0 or number % math.prod(shape[axis] for axis in axes):
            sizes = " * ".join(f"{axis}={shape[axis]}" for axis in axes)
            raise OlaError(f"mesh: {number} {what} cannot be divided by {sizes}; change one of them")


def share_out(x: Shaped[Array, "B W *rest"]) -> Shaped[Array, "windows *rest"]:
    """The windows (or chunks) of all rows on one axis, shared out among the devices.

    Rows get empty windows at their end until they can be shared evenly; `bring_back` drops them.
    """
    if is_sharded():
        rows = x.shape[0] // axis_size("data", "fsdp")
        shares = axis_size("tensor", "context") // math.gcd(rows, axis_size("tensor", "context"))
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % shares), *[(0, 0)] * (x.ndim - 2)])
    return constrain(x.reshape(-1, *x.shape[2:]), "windows", *[None] * (x.ndim - 2))


def for_each_device(
    function: Callable[..., Array], windows: Shaped[Array, "windows *rest"], *whole: Any
) -> Array:
    """function(windows, *whole), where each device takes its own windows and all of `whole`.

    For what XLA would bring to every device, windows of all: an FFT, a grouped convolution, a kernel.
    """
    if not is_sharded():
        return function(windows, *whole)
    in_specs = spec("windows"), *[PartitionSpec()] * len(whole)
    split = jax.shard_map(function, in_specs=in_specs, out_specs=spec("windows"), check_vma=False)
    return split(windows, *whole)


def bring_back(x: Shaped[Array, "windows *rest"], rows: int, windows: int) -> Shaped[Array, "B W *rest"]:
    """What became of the windows, back with their rows."""
    if axis_size(*_ROW_AXES) > 1:
        x = _collect(x)
    return x.reshape(rows, -1, *x.shape[1:])[:, :windows]


# Written out: left to itself, XLA gathers the gradients of all rows on every device where `context` is used.
@jax.custom_vjp
def _collect(x: Array) -> Array:
    """From all devices that work on a row, to each of them."""
    of_row = functools.partial(jax.lax.all_gather, axis_name=_ROW_AXES, axis=0, tiled=True)
    return jax.shard_map(of_row, in_specs=spec("windows"), out_specs=spec("rows"), check_vma=False)(x)


def _collect_forward(x: Array) -> tuple[Array, None]:
    return _collect(x), None


def _collect_backward(_: None, gradient: Array) -> tuple[Array]:
    def own(of_row: Array) -> Array:
        share = of_row.shape[0] // axis_size(*_ROW_AXES)
        return jax.lax.dynamic_slice_in_dim(of_row, jax.lax.axis_index(_ROW_AXES) * share, share)

    return (jax.shard_map(own, in_specs=spec("rows"), out_specs=spec("windows"), check_vma=False)(gradient),)


_collect.defvjp(_collect_forward, _collect_backward)


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """How each field of a batch is split."""
    by_token = ("tokens", "positions", "segments", "targets", "source")
    names = {field.name: ("rows",) for field in dataclasses.fields(OlaBatch)}
    names |= dict.fromkeys(by_token, ("rows", "length"))
    return {field: NamedSharding(mesh, spec(*axes)) for field, axes in names.items()}


def rows_of_process(mesh: Mesh, process: int) -> tuple[int, int]:
    """(part, parts): which of the equal parts of a batch's rows this process reads.

    Processes whose devices work on the same rows (split over `tensor` or `context`) read the same
    part. Raises OlaError where rows are neither shared nor apart.
    """
    blocks: dict[int, set[int]] = {}
    groups = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    for block, devices in enumerate(groups):
        for device in devices:
            blocks.setdefault(device.process_index, set()).add(block)
    parts = sorted({tuple(sorted(of_process)) for of_process in blocks.values()})
    if sum(map(len, parts)) != len(groups) or len({len(part) for part in parts}) != 1:
        raise OlaError(
            f"mesh: {dict(mesh.shape)} over {len(blocks)} processes: some would share a part of their rows; "
            "let tensor * context divide the devices of a process, or be a multiple of them"
        )
    return parts.index(tuple(sorted(blocks[process]))), len(parts)


def global_batch(batch: OlaBatch, mesh: Mesh) -> OlaBatch:
    """The batch of all processes from the rows of this one (numpy leaves), split over the mesh."""
    _, parts = rows_of_process(mesh, jax.process_index())

    def place(x: Array, sharding: NamedSharding) -> Array:
        return jax.make_array_from_process_local_data(sharding, x, (x.shape[0] * parts, *x.shape[1:]))

    return OlaBatch(**{field: place(getattr(batch, field), s) for field, s in batch_shardings(mesh).items()})
