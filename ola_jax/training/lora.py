"""LoRA and DoRA: frozen kernels, changed by trained products of two narrow matrices.

The change is added to the kernel before the model is called, so the model needs no code for it; a stage
saves the kernel with its change. Unlike the original's, adapters have no dropout, as they have no input of
their own. Sources: arXiv 2106.09685, 2402.09353; scripts/finetune_ola_lora.sh's sizes.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct, traverse_util

from ola_jax.errors import OlaError
from ola_jax.typing import AnyArray, Array, FlatParams, Float, Params

PREFIX = "lora/"  # of the names that adapters have beside parameters: in the optimizer, in checkpoints


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a stage; the original's have rank 64, alpha 16 and DoRA, on all of the decoder's layers."""

    rank: int = 0  # 0: no adapters
    alpha: float = 16.0  # the change is scaled by alpha / rank
    dora: bool = False  # train the length of each output's weights apart from their direction
    pattern: str = r"llm/layers/.*_proj/kernel"  # of the kernels' paths


class Adapter(struct.PyTreeNode):
    """The adapter of one kernel, float32: arrays, or their shapes or shardings."""

    a: Any  # [..., in, rank]
    b: Any  # [..., rank, out]
    magnitude: Any = None  # [..., out], with DoRA


Adapters = dict[str, Adapter]  # by the path of the kernel


def init_adapters(frozen: FlatParams, config: LoraConfig, seed: int = 0) -> Adapters:
    """Adapters that change nothing yet.

    Raises OlaError if the pattern matches no frozen kernel, or also matches another parameter.
    """
    if not config.rank:
        return {}
    paths = [path for path in frozen if re.fullmatch(config.pattern, path)]
    if not paths:
        kernels = [path for path in frozen if path.endswith("/kernel")]
        examples = ", ".join(kernels[:: max(1, len(kernels) // 3)][:3]) or "no kernel"
        raise OlaError(
            f"lora.pattern: {config.pattern!r} matches no frozen parameter; freeze what adapters change; "
            f"frozen is {examples}{', ...' if len(kernels) > 3 else ''}"
        )
    if others := [path for path in paths if not path.endswith("/kernel")]:
        raise OlaError(
            f"lora.pattern: {config.pattern!r} also matches {others[0]}, which is no kernel; expected a "
            r"pattern of the kernels' full paths, such as 'llm/layers/.*_proj/kernel'"
        )
    adapters = {}
    for number, path in enumerate(paths):
        *layers, inputs, outputs = frozen[path].shape
        key = jax.random.fold_in(jax.random.key(seed), number)
        # As torch's Linear: uniform, within 1 / sqrt(inputs).
        bound = inputs**-0.5
        shape = (*layers, inputs, config.rank)
        adapters[path] = Adapter(
            a=jax.random.uniform(key, shape, jnp.float32, -bound, bound),
            b=jnp.zeros((*layers, config.rank, outputs), jnp.float32),
            magnitude=_lengths(frozen[path]) if config.dora else None,
        )
    return adapters


def apply_adapters(params: Params, adapters: Adapters, config: LoraConfig) -> Params:
    """The model's parameters, each kernel with its change, in the kernel's dtype."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, adapter in adapters.items():
        kernel = flat[path].astype(jnp.float32) + (config.alpha / config.rank) * (adapter.a @ adapter.b)
        if config.dora:
            # The length is a constant to the gradient (section 4.3 of the paper).
            length = jax.lax.stop_gradient(_lengths(kernel))
            kernel *= (adapter.magnitude / length)[..., None, :]
        flat[path] = kernel.astype(flat[path].dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def name_trained(trainable: FlatParams, adapters: Adapters) -> FlatParams:
    """Everything trained, in one dict: parameters by path, adapters as "lora/PATH/a", "lora/PATH/b", ...

    The optimizer and checkpoints use these names.
    """
    named = {
        f"{PREFIX}{path}/{field.name}": getattr(adapter, field.name)
        for path, adapter in adapters.items()
        for field in dataclasses.fields(adapter)
    }
    return trainable | {name: value for name, value in named.items() if value is not None}


def split_trained(trained: FlatParams) -> tuple[FlatParams, Adapters]:
    """Trainable parameters and adapters: the inverse of `name_trained`."""
    fields: dict[str, dict[str, Any]] = {}
    for name in filter(is_adapter, trained):
        path, _, field = name.removeprefix(PREFIX).rpartition("/")
        fields.setdefault(path, {})[field] = trained[name]
    trainable = {name: value for name, value in trained.items() if not is_adapter(name)}
    return trainable, {path: Adapter(**values) for path, values in fields.items()}


def is_adapter(name: str) -> bool:
    """True if `name_trained` gave this name to a part of an adapter."""
    return name.startswith(PREFIX)


def _lengths(kernel: AnyArray) -> Float[Array, "..."]:
    """The lengths of the weights of each output."""
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=-2)
