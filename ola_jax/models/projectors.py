"""The two projectors: encoder features to tokens of the decoder, and the seven learned marks."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ola_jax.batch import IMAGE_MARKS, POOLED, SPEECH_MARKS
from ola_jax.config import Downsampling
from ola_jax.kernels.local_global_pool import Implementation
from ola_jax.models.layers import gelu, linear
from ola_jax.models.pooling import make_pooling
from ola_jax.typing import Array, DTypeLike, Float


class VisionProjector(nn.Module):
    """Patches to tokens: project, downsample 2x2, GELU, project (quirk V9: the pool comes first)."""

    hidden_size: int  # of the decoder
    dtype: DTypeLike = jnp.float32
    downsampling: Downsampling = "local_global"
    pooling: Implementation = "auto"  # of local_global

    def setup(self) -> None:
        self.proj1 = linear(self.hidden_size, ("patch", "embed"), self.dtype)
        self.proj2 = linear(self.hidden_size, ("patch", "embed"), self.dtype)
        self.pooler = make_pooling(self.downsampling, self.dtype, self.pooling)
        self.marks = learned_marks(self, IMAGE_MARKS, self.hidden_size)

    def __call__(self, x: Float[Array, "*b N Dv"]) -> Float[Array, "*b G D"]:
        """Tokens, G = N / 4 (without downsampling N), from N patches in 2x2-block order."""
        x = self.proj1(x)
        if self.pooler is not None:
            x = self.pooler(x.reshape(*x.shape[:-2], -1, POOLED, x.shape[-1]))
        return self.proj2(gelu(x))


class SpeechProjector(nn.Module):
    """Encoder frames to tokens: join `stack` frames, then a ReLU network of two layers."""

    hidden_size: int  # of the decoder
    inner_size: int
    stack: int  # frames of one token
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.linear1 = linear(self.inner_size, ("frames", "features"), self.dtype)
        self.linear2 = linear(self.hidden_size, ("features", "embed"), self.dtype)
        self.marks = learned_marks(self, SPEECH_MARKS, self.hidden_size)

    def __call__(self, x: Float[Array, "*b F Da"]) -> Float[Array, "*b F2 D"]:
        """Tokens, F2 = F // stack; the remaining frames are dropped (quirk S5)."""
        tokens = x.shape[-2] // self.stack
        x = x[..., : tokens * self.stack, :].reshape(*x.shape[:-2], tokens, -1)
        return self.linear2(jax.nn.relu(self.linear1(x)))


def learned_marks(module: nn.Module, names: Sequence[str], width: int) -> dict[str, Float[Array, "D"]]:
    """The marks of a projector, by name; parameters of its own, created in its `setup`."""
    init: nn.initializers.Initializer = nn.with_logical_partitioning(
        nn.initializers.normal(width**-0.5), ("embed",)
    )
    return {name: module.param(name, init, (width,)) for name in names}


def vision_flops(patches: int, inputs: int, hidden_size: int, downsampling: Downsampling) -> float:
    """FLOPs of the vision projector, for patches of `inputs` features each."""
    square = hidden_size**2
    # Products of the pooling, by patch and by group: local_global has a local and a second product for each
    # patch, and one of the mean. The projection after it is by token.
    by_patch = {"local_global": 2, "conv": 1}.get(downsampling, 0) * square
    by_group = square if downsampling == "local_global" else 0
    tokens = patches if downsampling == "none" else patches / POOLED
    return 2 * (patches * (inputs * hidden_size + by_patch) + patches / POOLED * by_group + tokens * square)


def speech_flops(tokens: int, inputs: int, inner_size: int, hidden_size: int) -> float:
    """FLOPs of the speech projector, for tokens of `inputs` features each."""
    return float(tokens * 2 * (inputs + hidden_size) * inner_size)
