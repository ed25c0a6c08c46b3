"""LoRA and DoRA: frozen kernels, changed by trained products of two narrow matrices.

The change is added to the kernel before the model sees it, so that the model knows nothing of it; what
a stage saves is the kernel with its change. Unlike the original's, adapters have no dropout, for there is
no input of their own. Sources: arXiv 2106.09685, 2402.09353; scripts/finetune_ola_lora.sh's sizes.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
from flax import traverse_util

from ola_jax.errors import OlaError
from ola_jax.typing import Array, Float, Params


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Adapters of a stage; the original's have rank 64, alpha 16 and DoRA, on all of the decoder's layers."""

    rank: int = 0  # 0: no adapters
    alpha: float = 16.0  # the change is scaled by alpha / rank
    dora: bool = False  # train the length of each output's weights apart from their direction
    pattern: str = r"llm/layers/.*_proj/kernel"  # of the kernels' paths


def init(frozen: dict[str, Array], config: LoraConfig, seed: int = 0) -> dict[str, Float[Array, "..."]]:
    """Adapters {"lora/PATH/a": [..., in, rank], ".../b": [..., rank, out]} that change nothing yet.

    With DoRA also ".../magnitude": [..., out]. Raises OlaError where the pattern matches no frozen kernel,
    or matches what is no kernel.
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
            r"pattern of the kernels' whole paths, such as 'llm/layers/.*_proj/kernel'"
        )
    adapters = {}
    for number, path in enumerate(paths):
        *layers, inputs, outputs = frozen[path].shape
        key = jax.random.fold_in(jax.random.key(seed), number)
        # As torch's Linear: uniform, within one over the root of the inputs.
        bound = inputs**-0.5
        shape = (*layers, inputs, config.rank)
        adapters[f"lora/{path}/a"] = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        adapters[f"lora/{path}/b"] = jnp.zeros((*layers, config.rank, outputs), jnp.float32)
        if config.dora:
            adapters[f"lora/{path}/magnitude"] = _lengths(frozen[path])
    return adapters


def merge(params: Params, config: LoraConfig) -> Params:
    """The model's parameters, each kernel with its change (in the kernel's dtype), without adapters."""
    if "lora" not in params:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    merged = {path: value for path, value in flat.items() if not path.startswith("lora/")}
    for path in [path.removeprefix("lora/").removesuffix("/a") for path in flat if path.endswith("/a")]:
        a, b = flat[f"lora/{path}/a"], flat[f"lora/{path}/b"]
        kernel = merged[path].astype(jnp.float32) + (config.alpha / config.rank) * (a @ b)
        if config.dora:
            # The length is a constant to the gradient (section 4.3 of the paper).
            length = jax.lax.stop_gradient(_lengths(kernel))
            kernel *= (flat[f"lora/{path}/magnitude"] / length)[..., None, :]
        merged[path] = kernel.astype(merged[path].dtype)
    return traverse_util.unflatten_dict(merged, sep="/")


def _lengths(kernel: Array) -> Float[Array, "..."]:
    """Of the weights of each output."""
    return jnp.linalg.norm(kernel.astype(jnp.float32), axis=-2)
