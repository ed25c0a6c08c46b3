"""OryxViT: a vision transformer over packed windows of patches of images of any size."""

import flax.linen as nn
import jax.numpy as jnp

from ola_jax.config import OryxViTConfig, Remat
from ola_jax.kernels.attention import ENCODER_AXES, Implementation, packed_attention
from ola_jax.kernels.attention_inputs import PackedInputs
from ola_jax.models.layers import gelu, layer_norm, linear, parameter, stack_layers
from ola_jax.sharding import constrain, gather_weight
from ola_jax.typing import Array, DTypeLike, Float, Int, UInt8


def normalize(patches: UInt8[Array, "*b P"]) -> Float[Array, "*b P"]:
    """Maps bytes to [-1, 1]: (k / 255 - 0.5) / 0.5."""
    return (patches.astype(jnp.float32) * jnp.float32(1 / 255) - 0.5) / 0.5


def resample_position_embedding(
    table: Float[Array, "cells D"], position: Int[Array, "*b 4"]
) -> Float[Array, "*b D"]:
    """The square table of position embeddings, resized bilinearly to each image's grid.

    `position` is (row, column, grid height, grid width). Half-pixel centres, clamped edges, no
    antialiasing, as torch's interpolate(mode="bilinear", align_corners=False). Source: quirk V7.
    """
    table, side = jnp.asarray(table, jnp.float32), round(table.shape[0] ** 0.5)
    cell, grid = position[..., :2].astype(jnp.float32), jnp.maximum(position[..., 2:], 1).astype(jnp.float32)
    sample = jnp.maximum((cell + 0.5) * (side / grid) - 0.5, 0.0)  # in cells of the table
    low = jnp.minimum(sample.astype(jnp.int32), side - 1)
    high = jnp.minimum(low + 1, side - 1)
    weight = sample - low

    def interpolate_row(y: Array) -> Array:
        left, right = table[y * side + low[..., 1]], table[y * side + high[..., 1]]
        return left + (right - left) * weight[..., 1:]

    top, bottom = interpolate_row(low[..., 0]), interpolate_row(high[..., 0])
    return top + (bottom - top) * weight[..., :1]


class Attention(nn.Module):
    """Self-attention within each image."""

    config: OryxViTConfig
    dtype: DTypeLike
    attention: Implementation

    def setup(self) -> None:
        width = self.config.hidden_size
        self.qkv = linear(3 * width, ("embed", "features"), self.dtype)
        self.proj = linear(width, ("features", "embed"), self.dtype)

    def __call__(self, x: Float[Array, "B N D"], image: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """Lets each patch attend to all patches of its image."""
        q, k, v = self.heads(x)
        inputs = PackedInputs(q, k, v, image, image, causal=False)
        out = packed_attention(inputs, axes=ENCODER_AXES, implementation=self.attention)
        return self.proj(out.reshape(x.shape))

    def heads(self, x: Float[Array, "B N D"]) -> Float[Array, "3 B N H h"]:
        """Queries, keys and values."""
        return jnp.moveaxis(self.qkv(x).reshape(*x.shape[:2], 3, self.config.num_heads, -1), 2, 0)


class MLP(nn.Module):
    """Two linear layers around a GELU."""

    config: OryxViTConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """Expands, applies GELU, projects back."""
        x = gelu(linear(self.config.intermediate_size, ("embed", "features"), self.dtype, name="fc1")(x))
        return linear(self.config.hidden_size, ("features", "embed"), self.dtype, name="fc2")(x)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    config: OryxViTConfig
    dtype: DTypeLike
    attention: Implementation

    def setup(self) -> None:
        c = self.config
        self.norm1 = layer_norm(c.layer_norm_eps)
        self.attn = Attention(c, self.dtype, self.attention)
        self.norm2 = layer_norm(c.layer_norm_eps)
        self.mlp = MLP(c, self.dtype)

    def __call__(
        self, x: Float[Array, "B N D"], image: Int[Array, "B N"]
    ) -> tuple[Float[Array, "B N D"], None]:
        """Returns (x, None), as nn.scan requires."""
        x = constrain(x, "windows", None, None)
        x = self._feed(x + self.attn(self.norm1(x).astype(self.dtype), image))
        self.sow("intermediates", "output", x)
        return x, None

    def heads(self, x: Float[Array, "B N D"]) -> Float[Array, "3 B N H h"]:
        """The part of the layer before attention: queries, keys and values."""
        return self.attn.heads(self.norm1(x).astype(self.dtype))

    def finish(self, x: Float[Array, "B N D"], attended: Float[Array, "B N H h"]) -> Float[Array, "B N D"]:
        """The part of the layer behind attention."""
        return self._feed(x + self.attn.proj(attended.reshape(x.shape)))

    def _feed(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        return x + self.mlp(self.norm2(x).astype(self.dtype))


class OryxViT(nn.Module):
    """Patches to features; no final norm. Source: the original's oryx_vit.py, quirks V6, V7 and V8."""

    config: OryxViTConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    attention: Implementation = "auto"

    def setup(self) -> None:
        c = self.config
        init, shape = nn.initializers.normal(c.hidden_size**-0.5), (c.position_grid**2, c.hidden_size)
        self.position_embedding = parameter(self, "position_embedding", init, (None, "embed"), shape)
        self.patch_embed = linear(c.hidden_size, ("patch", "embed"), self.dtype)
        blocks = stack_layers(Block, c.num_layers, self.remat, in_axes=(nn.broadcast,))
        self.blocks = blocks(c, self.dtype, self.attention)

    def __call__(
        self, pixels: Float[Array, "B N P"], image: Int[Array, "B N"], position: Int[Array, "B N 4"]
    ) -> Float[Array, "B N D"]:
        """Features of B windows of N patches.

        `pixels` are from `normalize`; `image` and `position` are `patch_image` and `patch_position` of
        an OlaBatch, with the windows of all rows on one axis.
        """
        return self.blocks(self.embed(pixels, position), image)[0]

    def embed(self, pixels: Float[Array, "B N P"], position: Int[Array, "B N 4"]) -> Float[Array, "B N D"]:
        """The input of the first layer."""
        x = self.patch_embed(pixels.astype(self.dtype))
        self.sow("intermediates", "patch_embed_out", x)
        table = gather_weight(self.position_embedding, (None, "embed"))
        return x + resample_position_embedding(table, position).astype(self.dtype)


def flops(config: OryxViTConfig, windows: int, patches: int) -> float:
    """FLOPs of windows of this many patches each; attention over full windows."""
    layer = config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
    weights = config.patch_bytes * config.hidden_size + config.num_layers * layer
    attention = config.num_layers * 4 * patches * config.hidden_size
    return float(windows * patches * (2 * weights + attention))
