"""The device mesh, and the axes over which each parameter and activation is split.

Weights and optimizer state are split over `fsdp` and `context` (gathered where they are used) and over
`tensor` (never gathered); rows of a batch over `data` and `fsdp`; tokens of a row over `context`. Windows
and audio chunks belong to their row and are split over all devices that work on it: encoders and projectors
never split a weight over `tensor`.
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
from ola_jax.typing import AnyArray, Array, HostArray, Params, Shaped

AXES = ("data", "fsdp", "tensor", "context")

_ROW_AXES = ("tensor", "context")  # along which devices work on the same row

# The one table: logical axis -> mesh axes. Axes that are not in it are replicated.
RULES: dict[str, tuple[str, ...]] = {
    # axes of activations
    "rows": ("data", "fsdp"),
    "copies": ("data",),  # rows that one copy of the weights works on
    "width": ("fsdp",),  # of the embedding table, and of tokens while they are looked up
    "windows": ("data", "fsdp", "tensor", "context"),  # windows or audio chunks of all rows
    "length": ("context",),
    # axes of parameters, and of activations computed with them; all others: parameter_spec
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one size may be -1: all that remain."""

    data: int = 1  # copies of the weights, each with its own rows
    fsdp: int = 1  # weights split, rows split
    tensor: int = 1  # heads, MLP and vocabulary split
    context: int = 1  # tokens of a row split


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices` (default: all). Where it needs fewer, it takes the first, if one process has all.

    Raises OlaError where the sizes do not fit the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [getattr(config, axis) for axis in AXES]
    request = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise OlaError(f"mesh: {request}; expected positive sizes, of which one may be -1 (all that remain)")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if len(devices) % fixed:
            raise OlaError(f"mesh: {request}; {len(devices)} devices cannot be divided by {fixed}")
        sizes[sizes.index(-1)] = len(devices) // fixed
    count = math.prod(sizes)
    if count > len(devices):
        raise OlaError(f"mesh: {request}; needs {count} devices, found {len(devices)}")
    if count < len(devices) and len({d.process_index for d in devices}) > 1:
        raise OlaError(
            f"mesh: {request}; uses {count} of {len(devices)} devices of several processes; "
            "set one axis to -1"
        )
    # Neighbours in a TPU's torus stay neighbours in the mesh.
    grid = mesh_utils.create_device_mesh(sizes, devices[:count], allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def axis_size(*axes: str) -> int:
    """Number of devices along these axes of the current mesh (jax.set_mesh); 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape.get(axis, 1) for axis in axes)


def no_mesh() -> contextlib.AbstractContextManager:
    """Unsets the current mesh, for batches that are too small to be split."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def platform() -> str:
    """Platform of the current mesh, or of JAX's default device: "tpu", "gpu" or "cpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def is_sharded() -> bool:
    """True if the current mesh has more than one device."""
    return axis_size(*AXES) > 1


def activation_spec(*names: str | None) -> PartitionSpec:
    """Partition of an activation with these logical axes."""
    return PartitionSpec(*[RULES.get(name) if name else None for name in names])


def constrain(x: Array, *names: str | None) -> Array:
    """Splits `x` by its logical axes over the current mesh; without a mesh, returns it unchanged."""
    return jax.lax.with_sharding_constraint(x, activation_spec(*names)) if is_sharded() else x


def gather_weight(weight: Array, names: Sequence[str | None]) -> Array:
    """Gathers a weight over `fsdp` and `context`; its gradient is scattered as the weight was.

    Only weights are moved (in the dtype in which they are used), never activations, and each gradient is
    reduced and scattered in one step.
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
    """Partition of a parameter: by its axis names, then over `fsdp` and `context`.

    These two split the first axis that they divide (gradients are scattered best along it); layers
    are never split, vectors only over `tensor`.
    """
    parts: list[tuple[str, ...]] = [() for _ in shape]
    sizes = list(shape)  # on one device

    inner = [dim for dim, name in enumerate(names) if name != "layers"]
    named = {axis: dim for dim in inner for axis in RULES.get(names[dim] or "", ())}
    for axis in ("tensor", "fsdp", "context"):
        candidates = [named[axis]] if axis in named else []
        if axis != "tensor" and len(inner) > 1:
            candidates += inner
        divisible = [dim for dim in candidates if sizes[dim] % mesh_shape[axis] == 0]
        if divisible and mesh_shape[axis] > 1:
            parts[divisible[0]] += (axis,)
            sizes[divisible[0]] //= mesh_shape[axis]
    return PartitionSpec(*[part or None for part in parts])


def parameter_shardings(boxed: Params, mesh: Mesh) -> Params:
    """The sharding of every parameter, from a tree of (abstract) parameters with their axis names.

    Parameters without names are replicated: the vectors of norms, of one layer or stacked.
    """

    def sharding(leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.Partitioned):
            return NamedSharding(mesh, PartitionSpec())
        shape = nn.unbox(leaf).shape
        return NamedSharding(mesh, parameter_spec(leaf.names, shape, mesh.shape))

    return jax.tree.map(sharding, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def check_mesh(mesh: Mesh, config: OlaConfig, *, rows: int, budget: Budget) -> None:
    """Raises OlaError if the mesh cannot divide `rows` (of a microbatch), their tokens or the decoder."""
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


def shard_windows(x: Shaped[AnyArray, "B W *rest"]) -> Shaped[Array, "windows *rest"]:
    """The windows (or chunks) of all rows on one axis, split over all devices.

    Rows are padded with empty windows until they divide evenly; `gather_windows` drops these.
    """
    x = jnp.asarray(x)
    if is_sharded():
        rows = x.shape[0] // axis_size("data", "fsdp")
        shards = axis_size(*_ROW_AXES) // math.gcd(rows, axis_size(*_ROW_AXES))
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % shards), *[(0, 0)] * (x.ndim - 2)])
    return constrain(x.reshape(-1, *x.shape[2:]), "windows", *[None] * (x.ndim - 2))


def map_window_shards(
    function: Callable[..., Array], windows: Shaped[Array, "windows *rest"], *replicated: Any
) -> Array:
    """Runs function(windows, *replicated) on each device, with its own windows and all of `replicated`.

    For operations before which XLA would gather the windows on every device: an FFT, a grouped
    convolution, a kernel.
    """
    if not is_sharded():
        return function(windows, *replicated)
    split = activation_spec("windows")
    in_specs = split, *[PartitionSpec()] * len(replicated)
    sharded = jax.shard_map(function, in_specs=in_specs, out_specs=split, check_vma=False)
    return sharded(windows, *replicated)


def gather_windows(x: Shaped[Array, "windows *rest"], rows: int, windows: int) -> Shaped[Array, "B W *rest"]:
    """Results for the windows that `shard_windows` split, on the devices of their rows."""
    if axis_size(*_ROW_AXES) > 1:
        x = _gather_rows(x)
    return x.reshape(rows, -1, *x.shape[1:])[:, :windows]


# With a gradient of its own: XLA would gather the gradients of all rows on every device if `context` is used.
@jax.custom_vjp
def _gather_rows(x: Array) -> Array:
    """All windows of a row, on each of the devices that work on it."""
    gather = functools.partial(jax.lax.all_gather, axis_name=_ROW_AXES, axis=0, tiled=True)
    windows, rows = activation_spec("windows"), activation_spec("rows")
    return jax.shard_map(gather, in_specs=windows, out_specs=rows, check_vma=False)(x)


def _gather_rows_forward(x: Array) -> tuple[Array, None]:
    return _gather_rows(x), None


def _gather_rows_backward(_: None, gradient: Array) -> tuple[Array]:
    def select_own(gradient: Array) -> Array:
        count = gradient.shape[0] // axis_size(*_ROW_AXES)
        return jax.lax.dynamic_slice_in_dim(gradient, jax.lax.axis_index(_ROW_AXES) * count, count)

    windows, rows = activation_spec("windows"), activation_spec("rows")
    return (jax.shard_map(select_own, in_specs=rows, out_specs=windows, check_vma=False)(gradient),)


_gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """The sharding of each field of a batch."""
    by_token = ("tokens", "positions", "segments", "targets", "source")
    names: dict[str, tuple[str, ...]] = {field.name: ("rows",) for field in dataclasses.fields(OlaBatch)}
    names |= dict.fromkeys(by_token, ("rows", "length"))
    return {field: NamedSharding(mesh, activation_spec(*axes)) for field, axes in names.items()}


def rows_of_process(mesh: Mesh, process: int) -> tuple[int, int]:
    """The part of a batch's rows that this process reads, and the number of (equal) parts.

    Processes whose devices work on the same rows (split over `tensor` or `context`) read the same
    part. Raises OlaError if processes would share some of their rows but not all.
    """
    blocks: dict[int, set[int]] = {}
    groups = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    for block, devices in enumerate(groups):
        for device in devices:
            blocks.setdefault(device.process_index, set()).add(block)
    parts = sorted({tuple(sorted(own_blocks)) for own_blocks in blocks.values()})
    if sum(map(len, parts)) != len(groups) or len({len(part) for part in parts}) != 1:
        raise OlaError(
            f"mesh: {dict(mesh.shape)} over {len(blocks)} processes: some would share a part of their rows; "
            "let tensor * context divide the devices of a process, or be a multiple of them"
        )
    return parts.index(tuple(sorted(blocks[process]))), len(parts)


def global_batch(batch: OlaBatch, mesh: Mesh) -> OlaBatch:
    """The batch of all processes, from this one's rows (numpy leaves), split over the mesh."""
    _, parts = rows_of_process(mesh, jax.process_index())

    def place(x: HostArray, sharding: NamedSharding) -> Array:
        return jax.make_array_from_process_local_data(sharding, x, (x.shape[0] * parts, *x.shape[1:]))

    return OlaBatch(**{field: place(getattr(batch, field), s) for field, s in batch_shardings(mesh).items()})
