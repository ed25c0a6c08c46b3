"""Floating-point operations of a training step: those of the forward pass, times what its gradients need.

Recomputation in the backward pass is not counted, so that their share of a chip's peak is the model's (MFU).
"""

import dataclasses
import functools
import math
import re

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig
from ola_jax.models import ola, qwen2
from ola_jax.training.lora import LoraConfig


def count_step(
    config: OlaConfig,
    budget: Budget,
    *,
    rows: int,
    trainable: tuple[str, ...],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """FLOPs of a step in each part.

    Once for the forward pass; once more if gradients flow through the part to trained parameters in it or
    before it; once more for its own matrices if they are trained, or for the share that is. Attention
    scores have no weights: their backward pass is counted as that of a product. `trainable`
    are the stage's patterns; adapters add three times their own small products.
    """
    upstream = ola.ENCODERS | {"llm": (*ola.ENCODERS, *_encoders())}
    trained = _trained(config, tuple(trainable), adapters)
    flops = {}
    for part, once in ola.flops(config, budget).items():
        through = any(_trains(trained, before) for before in (part, *upstream.get(part, ())))
        own = trained[part].matrices + 3 * trained[part].adapters
        flops[part] = rows * once * (1 + through + own)
    return flops


def count_recomputed(
    config: OlaConfig,
    budget: Budget,
    *,
    rows: int,
    trainable: tuple[str, ...],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
) -> float:
    """FLOPs of a step that are not the model's.

    The backward pass recomputes what `remat` does not keep, of trained encoders everything at most. With
    adapters, the full gradients of adapted kernels are computed.
    """
    once = ola.flops(config, budget)
    trained = _trained(config, tuple(trainable), adapters)
    again = sum(flops * trained[part].adapted for part, flops in once.items())
    again += qwen2.recomputed_flops(config.llm, budget.tokens, config.remat)
    if config.remat not in ("dots", "none"):
        again += sum(once.get(part, 0.0) for part in _encoders() if _trains(trained, part))
    return rows * again


def _encoders() -> tuple[str, ...]:
    return tuple(encoder for encoders in ola.ENCODERS.values() for encoder in encoders)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """The share of a part that is trained."""

    any: bool
    matrices: float  # share of the matrices' weights that are trained
    adapted: float  # share that have adapters
    adapters: float  # weights of adapters, as a share of the matrices'


@functools.cache
def _trained(config: OlaConfig, trainable: tuple[str, ...], adapters: LoraConfig) -> dict[str, _Trained]:
    """The trained share of each part: its parameters as the patterns match them."""
    by_part: dict[str, list[tuple[bool, int, int, int]]] = {}
    for path, leaf in ola.parameter_shapes(config).items():
        chosen = any(re.match(pattern, path) for pattern in trainable)
        size = leaf.size if path.endswith(("/kernel", "/weight_v")) else 0
        has_adapter = bool(adapters.rank) and not chosen and re.fullmatch(adapters.pattern, path) is not None
        inputs_and_outputs = sum(leaf.shape[-2:])
        narrow = adapters.rank * inputs_and_outputs * size // math.prod(leaf.shape[-2:]) if has_adapter else 0
        by_part.setdefault(path.split("/")[0], []).append((chosen, size, size * has_adapter, narrow))
    found = {}
    for part, leaves in by_part.items():
        matrices = sum(size for _, size, _, _ in leaves)
        found[part] = _Trained(
            any=any(chosen or adapted for chosen, _, adapted, _ in leaves),
            matrices=sum(size for chosen, size, _, _ in leaves if chosen) / matrices,
            adapted=sum(adapted for _, _, adapted, _ in leaves) / matrices,
            adapters=sum(narrow for _, _, _, narrow in leaves) / matrices,
        )
    return found


def _trains(trained: dict[str, _Trained], part: str) -> bool:
    """True if any parameter of a part, or an adapter in it, is trained."""
    return part in trained and trained[part].any
