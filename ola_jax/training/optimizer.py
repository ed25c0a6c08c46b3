"""AdamW, Muon or Adafactor: warm-up, cosine decay to a floor, clipping, learning rates of single parts."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ola_jax.errors import OlaError
from ola_jax.training.lora import is_adapter
from ola_jax.typing import Array, Float, Int

FUSED = "/qkv/kernel"  # queries, keys and values in one kernel: [..., in, 3 * out]


@dataclasses.dataclass(frozen=True)
class PartRate:
    """A learning rate of its own for the parameters whose path matches."""

    pattern: str  # regular expression, matched from the start of a path such as "llm/norm/scale"
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Defaults: the original's scripts/finetune_ola.sh."""

    kind: Literal["adamw", "muon", "adafactor"] = "adamw"
    learning_rate: float = 1e-5
    part_rates: tuple[PartRate, ...] = ()  # the first that matches is used
    warmup_ratio: float = 0.05  # of all steps, rounded up
    floor_ratio: float = 0.01  # of the learning rate, reached at the last step
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices and adapters; norms, biases and marks are never decayed
    clip_norm: float | None = 1.0  # of all gradients together (quirk T5)
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"  # of the first moment of AdamW and Muon
    muon_momentum: float = 0.95
    offload: bool = False  # keep moments in the host's memory between updates


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Share of the learning rate by step: 0 at step 0, 1 after warm-up, then half a cosine (quirk T4)."""
    warmup = math.ceil(config.warmup_ratio * steps)

    def share(step: Int[Array, ""] | int) -> Float[Array, ""]:
        progress = (step - warmup) / max(1, steps - warmup)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        decayed = config.floor_ratio + (1 - config.floor_ratio) * cosine
        return jnp.where(step < warmup, step / max(1, warmup), decayed)

    return share


def learning_rate(config: OptimizerConfig, path: str) -> float:
    """The peak learning rate of the parameter at `path`."""
    matching = (part for part in config.part_rates if re.match(part.pattern, path))
    return next((part.learning_rate for part in matching), config.learning_rate)


def build(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Builds the optimizer for flat dicts {path: array} of trainable parameters.

    Its `init` raises OlaError if a pattern of `part_rates` sets the rate of no parameter.
    """

    def scale_parts(updates: dict[str, jax.Array], _: object = None) -> dict[str, jax.Array]:
        return {path: update * learning_rate(config, path) for path, update in updates.items()}

    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    chain = optax.chain(
        clip,
        _direction(config),
        optax.add_decayed_weights(config.weight_decay, decays),
        optax.stateless(scale_parts),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )

    def init(params: dict[str, Any]) -> optax.OptState:
        check_rates(config, tuple(params))
        return chain.init(params)

    return optax.GradientTransformation(init, chain.update)


def check_rates(config: OptimizerConfig, paths: Sequence[str]) -> None:
    """Raises OlaError if a pattern of `part_rates` sets the rate of none of the trained parameters."""
    used = {next((p for p in config.part_rates if re.match(p.pattern, path)), None) for path in paths}
    for part in config.part_rates:
        if part in used:
            continue
        if any(re.match(part.pattern, path) for path in paths):
            raise OlaError(
                f"part_rates: all that {part.pattern!r} matches has the rate of a pattern before it; "
                "put it first"
            )
        parts = ", ".join(sorted({path.split("/")[0] for path in paths}))
        raise OlaError(
            f"part_rates: {part.pattern!r} matches no trained parameter; trained is {parts}, "
            f"for example {next(iter(paths), 'nothing')}"
        )


def decays(params: dict[str, Any]) -> dict[str, bool]:
    """True for each parameter that decays: kernels, embeddings and adapters.

    PyTorch's Trainer decays all but biases and norms: of PEFT's adapters a, b and DoRA's magnitude. Unlike
    there, learned marks and tables of positions do not decay here.
    """
    return {path: path.endswith(("/kernel", "/embedding")) or is_adapter(path) for path in params}


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """A transformation of gradients to steps of about unit size, uphill."""
    if config.kind == "adamw":
        return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=config.momentum_dtype)
    if config.kind == "adafactor":  # without momentum; updates clipped at unit root mean square
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    muon = optax.contrib.muon(
        1.0,
        beta=config.muon_momentum,
        adam_b1=config.b1,
        adam_b2=config.b2,
        eps=config.eps,
        mu_dtype=config.momentum_dtype,
        muon_weight_dimension_numbers=muon_axes,
        consistent_rms=0.2,  # as large as Adam's steps (arXiv 2502.16982, section 2.2)
    )
    return optax.chain(_split_fused(muon), optax.scale(-1.0))


def muon_axes(params: dict[str, Any]) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
    """The axes of each kernel that Muon orthogonalizes, layer by layer; None: left to Adam.

    Fused kernels are split ([..., in, 3, out]); each tap of a convolution is a matrix. As usual with Muon,
    embeddings, the output matrix, norms and biases are left to Adam; so are adapters, whose narrow factors
    are not matrices of the model.
    """
    axes = optax.contrib.MuonDimensionNumbers

    def find_axes(path: str) -> optax.contrib.MuonDimensionNumbers | None:
        if not path.endswith("/kernel") or path.endswith("lm_head/kernel"):
            return None
        if path.endswith(FUSED):
            return axes(reduction_axis=(-3,), output_axis=(-1,))
        return axes(reduction_axis=(-2,), output_axis=(-1,))

    return {path: find_axes(path) for path in params}


def _split_fused(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps `inner` so that it gets a fused kernel as three: [..., in, 3, out].

    Its state is kept in the shape of the parameters, and so sharded as they are.
    """

    def split(tree: Any) -> Any:
        return _map_fused(lambda x: x.reshape(*x.shape[:-1], 3, x.shape[-1] // 3), tree)

    def fuse(tree: Any) -> Any:
        return _map_fused(lambda x: x.reshape(*x.shape[:-2], -1), tree)

    def init(params: Any) -> optax.OptState:
        return fuse(inner.init(split(params)))

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        updates, state = inner.update(split(updates), split(state), split(params))
        return fuse(updates), fuse(state)

    return optax.GradientTransformation(init, update)


def _map_fused(function: Callable[[Array], Array], tree: Any) -> Any:
    """Applies `function` to the leaves that belong to a fused kernel."""
    is_fused = lambda keys: any(str(getattr(key, "key", "")).endswith(FUSED) for key in keys)
    map_leaf = lambda keys, x: function(x) if is_fused(keys) else x
    return jax.tree_util.tree_map_with_path(map_leaf, tree)
