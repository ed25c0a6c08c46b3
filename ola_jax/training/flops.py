"""Floating-point operations of a training step, counted from the model's sizes.

Products of matrices only, each multiply-add as two; what the backward pass computes again is not
counted, so that the share of a chip's peak that these make is the model's (MFU). Attention is counted
over whole windows and chunks, and over half of each row of the decoder, for it is causal.
"""

import dataclasses
import functools
import math
import re

import flax.linen as nn
from flax import traverse_util

from ola_jax.batch import Budget
from ola_jax.config import OlaConfig
from ola_jax.models.ola import abstract_params
from ola_jax.training.lora import LoraConfig


def forward(config: OlaConfig, budget: Budget) -> dict[str, float]:
    """FLOPs of one row through each part."""
    llm, tokens = config.llm, budget.tokens
    heads, kv_heads = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    layer = llm.hidden_size * (2 * heads + 2 * kv_heads + 3 * llm.intermediate_size)
    weights = llm.num_layers * layer + llm.hidden_size * llm.vocab_size
    flops = {"llm": 2 * tokens * weights + llm.num_layers * 4 * tokens**2 * heads / 2}
    if config.vision and budget.windows:
        v, patches, width = config.vision, budget.windows * budget.window_patches, llm.hidden_size
        layer = v.hidden_size * (4 * v.hidden_size + 2 * v.intermediate_size)
        weights = 3 * v.patch_size**2 * v.hidden_size + v.num_layers * layer
        attention = v.num_layers * 4 * budget.window_patches * v.hidden_size
        flops["vision"] = patches * (2 * weights + attention)
        # A group of four: local and second product for each, mean and last product once.
        of_four = 4 * v.hidden_size * width + 4 * 2 * width**2 + 2 * width**2
        flops["vision_projector"] = patches / 4 * 2 * of_four
    if config.whisper and budget.audio_chunks:
        chunks, w = budget.audio_chunks, config.whisper
        width, frames = w.hidden_size, w.num_positions
        convolutions = 2 * 3 * w.num_mels * width + 3 * width**2
        weights = convolutions + w.num_layers * 12 * width**2
        flops["whisper"] = chunks * frames * (2 * weights + w.num_layers * 4 * frames * width)
        joined = config.speech_stack * (width + (config.beats.hidden_size if config.beats else 0))
        weights = (joined + llm.hidden_size) * config.speech_hidden_size
        flops["speech_projector"] = chunks * config.chunk_tokens * 2 * weights
    if config.beats and budget.audio_chunks:
        b, frames = config.beats, config.beats_frames
        layer = b.hidden_size * (4 * b.hidden_size + 2 * b.intermediate_size)
        first = b.embed_dim * (b.patch_size**2 + (b.hidden_size if b.embed_dim != b.hidden_size else 0))
        convolution = b.conv_positions * b.hidden_size**2 / b.conv_groups
        weights = first + convolution + b.num_layers * layer
        attention = b.num_layers * 4 * frames * b.hidden_size
        flops["beats"] = budget.audio_chunks * frames * (2 * weights + attention)
    return flops


def step(
    config: OlaConfig,
    budget: Budget,
    rows: int,
    trainable: tuple[str, ...],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
) -> dict[str, float]:
    """FLOPs of a step in each part.

    Once for the forward pass; once more where gradients flow through the part to what is trained
    before it or in it; once more where its own matrices are trained, or the share of them that is.
    Attention's scores have no weights: their backward pass is counted as that of a product. `trainable`
    are the stage's patterns; adapters add three times their own small products.
    """
    upstream = {
        "llm": ("vision", "vision_projector", "whisper", "beats", "speech_projector"),
        "vision_projector": ("vision",),
        "speech_projector": ("whisper", "beats"),
    }
    trained = _trained(config, tuple(trainable), adapters)
    flops = {}
    for part, once in forward(config, budget).items():
        through = any(_trains(trained, before) for before in (part, *upstream.get(part, ())))
        own = trained[part].matrices + 3 * trained[part].adapters
        flops[part] = rows * once * (1 + through + own)
    return flops


def recomputed(
    config: OlaConfig,
    budget: Budget,
    rows: int,
    trainable: tuple[str, ...],
    adapters: LoraConfig = LoraConfig(),  # noqa: B008 - frozen
) -> float:
    """FLOPs of a step that are not the model's.

    The backward pass computes again logits always, and layers where `remat` is "full". With adapters, the
    gradients of adapted kernels are computed whole.
    """
    once = forward(config, budget)
    trained = _trained(config, tuple(trainable), adapters)
    logits = 2.0 * budget.tokens * config.llm.hidden_size * config.llm.vocab_size
    again = logits + sum(of * trained[part].adapted for part, of in once.items())
    if config.remat == "full":
        again += once["llm"] - logits
        again += sum(once.get(part, 0.0) for part in ("vision", "whisper", "beats") if _trains(trained, part))
    return rows * again


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What is trained of a part."""

    any: bool
    matrices: float  # share of the matrices' weights that are trained
    adapted: float  # share that have adapters
    adapters: float  # weights of adapters, as a share of the matrices'


@functools.cache
def _trained(config: OlaConfig, trainable: tuple[str, ...], adapters: LoraConfig) -> dict[str, _Trained]:
    """Of each part, from its parameters as the patterns match them."""
    of_parts: dict[str, list[tuple[bool, int, int, int]]] = {}
    for path, leaf in traverse_util.flatten_dict(nn.unbox(abstract_params(config)), sep="/").items():
        chosen = any(re.match(pattern, path) for pattern in trainable)
        size = leaf.size if path.endswith(("/kernel", "/weight_v")) else 0
        has_adapter = bool(adapters.rank) and not chosen and re.fullmatch(adapters.pattern, path) is not None
        inputs_and_outputs = sum(leaf.shape[-2:])
        narrow = adapters.rank * inputs_and_outputs * size // math.prod(leaf.shape[-2:]) if has_adapter else 0
        of_parts.setdefault(path.split("/")[0], []).append((chosen, size, size * has_adapter, narrow))
    found = {}
    for part, leaves in of_parts.items():
        matrices = sum(size for _, size, _, _ in leaves)
        found[part] = _Trained(
            any=any(chosen or adapted for chosen, _, adapted, _ in leaves),
            matrices=sum(size for chosen, size, _, _ in leaves if chosen) / matrices,
            adapted=sum(adapted for _, _, adapted, _ in leaves) / matrices,
            adapters=sum(narrow for _, _, _, narrow in leaves) / matrices,
        )
    return found


def _trains(trained: dict[str, _Trained], part: str) -> bool:
    """Whether any parameter of a part, or an adapter in it, is trained."""
    return part in trained and trained[part].any
