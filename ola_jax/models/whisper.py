"""The encoder of Whisper large-v3."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.config import Remat, WhisperConfig
from ola_jax.kernels.attention import ENCODER_AXES, Implementation, packed_attention
from ola_jax.kernels.attention_inputs import PackedInputs
from ola_jax.models.layers import gelu, layer_norm, linear, parameter, product, stack_layers
from ola_jax.sharding import constrain, gather_weight
from ola_jax.typing import Array, DTypeLike, Float, HostArray

LAYER_NORM_EPS = 1e-5


def sinusoids(length: int, channels: int) -> Float[HostArray, "F D"]:
    """Whisper's position embedding before training: sines, then cosines."""
    rate = np.log(10_000) / (channels // 2 - 1)
    angle = np.arange(length)[:, None] * np.exp(-rate * np.arange(channels // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


class Attention(nn.Module):
    """Full self-attention; keys have no bias (quirk S6)."""

    config: WhisperConfig
    dtype: DTypeLike
    attention: Implementation

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        """Lets every frame attend to every frame."""
        width, heads = self.config.hidden_size, self.config.num_heads
        shape = (*x.shape[:2], heads, width // heads)
        q = linear(width, ("embed", "features"), self.dtype, name="query")(x).reshape(shape)
        k = linear(width, ("embed", "features"), self.dtype, bias=False, name="key")(x).reshape(shape)
        v = linear(width, ("embed", "features"), self.dtype, name="value")(x).reshape(shape)
        everything = jnp.ones(x.shape[:2], jnp.int32)
        inputs = PackedInputs(q, k, v, everything, everything, causal=False)
        out = packed_attention(inputs, axes=ENCODER_AXES, implementation=self.attention).reshape(x.shape)
        return linear(width, ("features", "embed"), self.dtype, name="out")(out)


class MLP(nn.Module):
    """Two linear layers around a GELU, four times as wide."""

    config: WhisperConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        """Expands, applies GELU, projects back."""
        width = self.config.hidden_size
        x = gelu(linear(4 * width, ("embed", "features"), self.dtype, name="fc1")(x))
        return linear(width, ("features", "embed"), self.dtype, name="fc2")(x)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    config: WhisperConfig
    dtype: DTypeLike
    attention: Implementation

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> tuple[Float[Array, "B F D"], None]:
        """Returns (x, None), as nn.scan requires."""
        x = constrain(x, "windows", None, None)
        h = layer_norm(LAYER_NORM_EPS, name="attn_ln")(x).astype(self.dtype)
        x = x + Attention(self.config, self.dtype, self.attention, name="attn")(h)
        h = layer_norm(LAYER_NORM_EPS, name="mlp_ln")(x).astype(self.dtype)
        x = x + MLP(self.config, self.dtype, name="mlp")(h)
        self.sow("intermediates", "output", x)
        return x, None


class Convolution(nn.Module):
    """Convolution over time with three taps and zero padding, as one product of three shifted copies.

    On CPUs, XLA's gradient of a narrow convolution is many times slower than that of a product.
    """

    features: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F2 D2"]:
        """Frames, F2 = F / stride."""
        init, axes = nn.initializers.lecun_normal(), (None, None, "embed")
        kernel = parameter(self, "kernel", init, axes, (3, x.shape[-1], self.features))
        bias = parameter(self, "bias", nn.initializers.zeros, ("embed",), (self.features,))
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        taps = [padded[:, tap : tap + x.shape[1] : self.stride] for tap in range(3)]
        kernel = gather_weight(kernel.astype(self.dtype), axes)
        out = product(jnp.concatenate(taps, axis=-1), kernel.reshape(-1, self.features))
        return out + bias.astype(self.dtype)


class Whisper(nn.Module):
    """Log-mel chunks to frames of 20 ms. Source: openai/whisper model.py, AudioEncoder."""

    config: WhisperConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    attention: Implementation = "auto"

    @nn.compact
    def __call__(self, mel: Float[Array, "B F2 M"]) -> Float[Array, "B F D"]:
        """Frames of B chunks; F2 = 2 F mel frames of 10 ms."""
        c = self.config
        x = Convolution(c.hidden_size, 1, self.dtype, name="conv1")(mel)
        self.sow("intermediates", "conv1_out", x)
        x = Convolution(c.hidden_size, 2, self.dtype, name="conv2")(gelu(x))
        self.sow("intermediates", "conv2_out", x)
        init = lambda _: jnp.asarray(sinusoids(c.num_positions, c.hidden_size))
        table = parameter(self, "positional_embedding", init, (None, "embed"))
        # Never trained: in the original it is a buffer, not a parameter.
        x = gelu(x) + jax.lax.stop_gradient(table).astype(self.dtype)
        x, _ = stack_layers(Block, c.num_layers, self.remat)(c, self.dtype, self.attention, name="blocks")(x)
        return layer_norm(LAYER_NORM_EPS, name="ln_post")(x).astype(self.dtype)


def flops(config: WhisperConfig, chunks: int) -> float:
    """FLOPs of this many chunks."""
    width, frames = config.hidden_size, config.num_positions
    weights = 2 * 3 * config.num_mels * width + 3 * width**2 + config.num_layers * 12 * width**2
    return float(chunks * frames * (2 * weights + config.num_layers * 4 * frames * width))
