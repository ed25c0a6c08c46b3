"""Cross-entropy over the labelled tokens, the logits never whole in memory."""

import jax
import jax.numpy as jnp

from ola_jax.batch import IGNORE
from ola_jax.sharding import AXES, axis_size, is_sharded, parameter_spec, spec
from ola_jax.typing import Array, Float, Int


def cross_entropy(
    hidden: Float[Array, "B L D"],
    output_kernel: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    chunk: int = 1024,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of the negative log-likelihoods of all targets but IGNORE, and their number.

    Logits exist for `chunk` tokens of a device at a time, in the forward and in the backward pass
    (computed twice). Products in hidden's dtype, sums in float32. Their quotient is the mean over
    the global batch (quirk T1).

    On a mesh each device takes its own tokens and its share of the vocabulary. The kernel is gathered
    once for all chunks; its gradient is reduced and scattered once, after them.
    """
    kernel = output_kernel.astype(hidden.dtype)
    count = jnp.sum(targets != IGNORE)
    if not is_sharded():
        return _cross_entropy(hidden, kernel, targets, chunk), count

    mesh = jax.sharding.get_abstract_mesh()
    split = parameter_spec(("embed", "vocab"), kernel.shape, mesh.shape)

    def local(hidden: Array, kernel: Array, targets: Array) -> Array:
        for place, names in enumerate(split):
            for name in reversed([names] if isinstance(names, str) else names or ()):
                if name != "tensor":
                    kernel = jax.lax.all_gather(kernel, name, axis=place, tiled=True)
        axis = "tensor" if axis_size("tensor") > 1 else None
        total = _cross_entropy(hidden, kernel, targets, chunk, axis)
        return jax.lax.psum(total, [a for a in AXES if a != "tensor"])

    in_specs = spec("rows", "length", None), split, spec("rows", "length")
    sharded = jax.shard_map(local, in_specs=in_specs, out_specs=spec(), check_vma=False)
    return sharded(hidden, kernel, targets), count


def _cross_entropy(
    hidden: Float[Array, "B L D"],
    kernel: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    chunk: int,
    axis: str | None = None,
) -> Float[Array, ""]:
    """The sum alone; with `axis`, of devices that have a share of the vocabulary each."""
    x = hidden.reshape(-1, hidden.shape[-1])
    y = targets.reshape(-1)
    chunk = min(chunk, y.shape[0])
    rest = -y.shape[0] % chunk
    x = jnp.pad(x, ((0, rest), (0, 0))).reshape(-1, chunk, x.shape[-1])
    y = jnp.pad(y, (0, rest), constant_values=IGNORE).reshape(-1, chunk)

    @jax.checkpoint
    def body(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        x, y = inputs
        logits = (x @ kernel).astype(jnp.float32)
        picked = _pick(logits, jnp.maximum(y, 0), axis)
        losses = _logsumexp(logits, axis) - picked
        return total + jnp.where(y != IGNORE, losses, 0.0).sum(), None

    return jax.lax.scan(body, jnp.float32(0), (x, y))[0]


def _pick(logits: Float[Array, "L V"], at: Int[Array, "L"], axis: str | None) -> Float[Array, "L"]:
    if axis is None:
        return jnp.take_along_axis(logits, at[:, None], axis=1)[:, 0]
    size = logits.shape[1]
    at = at - jax.lax.axis_index(axis) * size
    picked = jnp.take_along_axis(logits, jnp.clip(at, 0, size - 1)[:, None], axis=1)[:, 0]
    return jax.lax.psum(jnp.where((at >= 0) & (at < size), picked, 0.0), axis)


def _logsumexp(logits: Float[Array, "L V"], axis: str | None) -> Float[Array, "L"]:
    if axis is None:
        return jax.nn.logsumexp(logits, axis=-1)
    top = jax.lax.pmax(jax.lax.stop_gradient(logits).max(axis=-1), axis)
    return jnp.log(jax.lax.psum(jnp.exp(logits - top[:, None]).sum(axis=-1), axis)) + top
