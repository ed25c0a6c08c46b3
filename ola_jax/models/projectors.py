"""The two projectors: encoder features to tokens of the decoder, and the seven learned marks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ola_jax.kernels.local_global_pool import Implementation
from ola_jax.models.layers import gelu, linear
from ola_jax.models.pooling import LocalGlobalPooling
from ola_jax.typing import Array, DTypeLike, Float


class VisionProjector(nn.Module):
    """Patches to tokens: project, pool 2x2, GELU, project (quirk V9: the pool comes first)."""

    hidden_size: int  # of the decoder
    dtype: DTypeLike = jnp.float32
    pooling: Implementation = "auto"

    def setup(self) -> None:
        self.proj1 = linear(self.hidden_size, ("patch", "embed"), self.dtype)
        self.proj2 = linear(self.hidden_size, ("patch", "embed"), self.dtype)
        self.pooler = LocalGlobalPooling(self.dtype, self.pooling)
        self.image_newline = _mark(self, "image_newline", self.hidden_size)
        self.image_begin = _mark(self, "image_begin", self.hidden_size)
        self.image_end = _mark(self, "image_end", self.hidden_size)
        self.image_sep = _mark(self, "image_sep", self.hidden_size)

    def __call__(self, x: Float[Array, "*b N Dv"]) -> Float[Array, "*b G D"]:
        """G = N / 4 tokens from N patches in 2x2-block order."""
        x = self.proj1(x)
        x = self.pooler(x.reshape(*x.shape[:-2], -1, 4, x.shape[-1]))
        return self.proj2(gelu(x))

    def marks(self) -> Float[Array, "4 D"]:
        """image_newline, image_begin, image_end, image_sep."""
        return jnp.stack([self.image_newline, self.image_begin, self.image_end, self.image_sep])


class SpeechProjector(nn.Module):
    """Encoder frames to tokens: join `stack` frames, then a ReLU network of two layers."""

    hidden_size: int  # of the decoder
    inner_size: int
    stack: int  # frames of one token
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.linear1 = linear(self.inner_size, ("frames", "features"), self.dtype)
        self.linear2 = linear(self.hidden_size, ("features", "embed"), self.dtype)
        self.speech_newline = _mark(self, "speech_newline", self.hidden_size)
        self.speech_begin = _mark(self, "speech_begin", self.hidden_size)
        self.speech_end = _mark(self, "speech_end", self.hidden_size)

    def __call__(self, x: Float[Array, "*b F Da"]) -> Float[Array, "*b F2 D"]:
        """F2 = F // stack tokens; the frames left over are dropped (quirk S5)."""
        tokens = x.shape[-2] // self.stack
        x = x[..., : tokens * self.stack, :].reshape(*x.shape[:-2], tokens, -1)
        return self.linear2(jax.nn.relu(self.linear1(x)))

    def marks(self) -> Float[Array, "3 D"]:
        """speech_newline, speech_begin, speech_end."""
        return jnp.stack([self.speech_newline, self.speech_begin, self.speech_end])


def _mark(module: nn.Module, name: str, width: int) -> Float[Array, "D"]:
    init = nn.with_logical_partitioning(nn.initializers.normal(width**-0.5), ("embed",))
    return module.param(name, init, (width,))
