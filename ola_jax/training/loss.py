"""Cross-entropy over the labelled tokens, without storing all logits in memory."""

import functools

import jax
import jax.numpy as jnp

from ola_jax.batch import IGNORE
from ola_jax.sharding import AXES, activation_spec, axis_size, is_sharded, parameter_spec
from ola_jax.typing import AnyArray, Array, Float, Int


def cross_entropy(
    hidden: Float[AnyArray, "B L D"],
    output_kernel: Float[AnyArray, "D V"],
    targets: Int[AnyArray, "B L"],
    *,
    chunk: int = 1024,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The sum of the negative log-likelihoods of all targets but IGNORE, and their number.

    Logits are in memory for `chunk` tokens of a device at a time, and computed once: gradients, if needed,
    are computed in the same pass. Products in hidden's dtype, sums in
    float32. Their quotient is the mean over the global batch (quirk T1).

    On a mesh each device takes its own tokens and its share of the vocabulary. The kernel is gathered
    once for all chunks; its gradient is reduced and scattered once, after them.
    """
    hidden, targets = jnp.asarray(hidden), jnp.asarray(targets)
    kernel = jnp.asarray(output_kernel, hidden.dtype)
    count = jnp.sum(targets != IGNORE)
    if not is_sharded():
        return _cross_entropy(hidden, kernel, targets, chunk), count

    mesh = jax.sharding.get_abstract_mesh()
    split = parameter_spec(("embed", "vocab"), kernel.shape, mesh.shape)

    def local(hidden: Array, kernel: Array, targets: Array) -> Array:
        for dim, names in enumerate(split):
            for name in reversed([names] if isinstance(names, str) else names or ()):
                if name != "tensor":
                    kernel = jax.lax.all_gather(kernel, name, axis=dim, tiled=True)
        axis = "tensor" if axis_size("tensor") > 1 else None
        total = _cross_entropy(hidden, kernel, targets, chunk, axis)
        return jax.lax.psum(total, [a for a in AXES if a != "tensor"])

    in_specs = activation_spec("rows", "length", None), split, activation_spec("rows", "length")
    sharded = jax.shard_map(local, in_specs=in_specs, out_specs=activation_spec(), check_vma=False)
    return sharded(hidden, kernel, targets), count


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cross_entropy(
    hidden: Float[Array, "B L D"],
    kernel: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    chunk: int,
    axis: str | None = None,
) -> Float[Array, ""]:
    """The sum only; with `axis`, over devices that each have a share of the vocabulary."""

    def body(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        x, y = inputs
        return total + _losses((x @ kernel).astype(jnp.float32), y, axis)[0].sum(), None

    return jax.lax.scan(body, jnp.float32(0), _chunks(hidden, targets, chunk))[0]


def _forward(
    hidden: Array, kernel: Array, targets: Array, chunk: int, axis: str | None
) -> tuple[Array, tuple[Array, Array]]:
    """The sum, and its gradients: of a sum they are known up to a factor before the backward pass."""

    def body(sums: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (total, d_kernel), (x, y) = sums, inputs
        logits = (x @ kernel).astype(jnp.float32)
        losses, log_total = _losses(logits, y, axis)
        at = _local(y, logits.shape[1], axis)[:, None]
        d_logits = jnp.exp(logits - log_total[:, None]) - (jnp.arange(logits.shape[1]) == at)
        d_logits = jnp.where((y != IGNORE)[:, None], d_logits, 0.0).astype(x.dtype)
        d_kernel += jnp.einsum("ld,lv->dv", x, d_logits, preferred_element_type=jnp.float32)
        return (total + losses.sum(), d_kernel), d_logits @ kernel.T

    start = jnp.float32(0), jnp.zeros(kernel.shape, jnp.float32)
    (total, d_kernel), d_hidden = jax.lax.scan(body, start, _chunks(hidden, targets, chunk))
    d_hidden = d_hidden.reshape(-1, hidden.shape[-1])[: targets.size].reshape(hidden.shape)
    return total, (d_hidden, d_kernel.astype(kernel.dtype))


def _backward(chunk: int, axis: str | None, gradients: tuple[Array, Array], factor: Array) -> tuple:
    if axis is not None:
        factor = jax.lax.psum(factor, axis)  # each device has a share of the total's
    d_hidden, d_kernel = (g * factor.astype(g.dtype) for g in gradients)
    return d_hidden, d_kernel, None


_cross_entropy.defvjp(_forward, _backward)


def _chunks(
    hidden: Float[Array, "B L D"], targets: Int[Array, "B L"], chunk: int
) -> tuple[Float[Array, "n chunk D"], Int[Array, "n chunk"]]:
    """All tokens in chunks, the last one padded with tokens without a target."""
    x, y = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    chunk = min(chunk, y.shape[0])
    rest = -y.shape[0] % chunk
    x, y = jnp.pad(x, ((0, rest), (0, 0))), jnp.pad(y, (0, rest), constant_values=IGNORE)
    return x.reshape(-1, chunk, x.shape[-1]), y.reshape(-1, chunk)


def _losses(
    logits: Float[Array, "L V"], targets: Int[Array, "L"], axis: str | None
) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
    """Negative log-likelihood of each target (0 without one), and the logarithm of each row's sum."""
    at, size = _local(targets, logits.shape[1], axis), logits.shape[1]
    picked = jnp.take_along_axis(logits, jnp.clip(at, 0, size - 1)[:, None], axis=1)[:, 0]
    top = logits.max(axis=-1)
    if axis is not None:
        picked = jax.lax.psum(jnp.where((at >= 0) & (at < size), picked, 0.0), axis)
        top = jax.lax.pmax(top, axis)
    total = jnp.exp(logits - top[:, None]).sum(axis=-1)
    log_total = jnp.log(total if axis is None else jax.lax.psum(total, axis)) + top
    return jnp.where(targets != IGNORE, log_total - picked, 0.0), log_total


def _local(targets: Int[Array, "L"], size: int, axis: str | None) -> Int[Array, "L"]:
    """The index of each target in this device's share of the vocabulary; outside it if in another's."""
    return targets if axis is None else targets - jax.lax.axis_index(axis) * size
