"""The BEATs encoder of general audio, computed in float32 throughout (quirk S7).

Source: arXiv 2212.09058 and the original's speech_encoder/beats, quirks S3 and S4. No layer is dropped at
random in training (quirk T3).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ola_jax.config import BeatsConfig, Remat
from ola_jax.kernels.biased_attention import biased_attention
from ola_jax.models.layers import gelu, layer_norm, linear, parameter, stack_layers
from ola_jax.sharding import constrain, gather_weight, map_window_shards
from ola_jax.typing import Array, Float, HostArray, Int

FBANK_MEAN, FBANK_STD = 15.41663, 6.55582  # of AudioSet; the original divides by twice the deviation
LAYER_NORM_EPS = 1e-5


def relative_buckets(
    distance: Int[HostArray, "n"], num_buckets: int, max_distance: int
) -> Int[HostArray, "n"]:
    """Bucket of each distance (in patches) from query to key: exact when near, then logarithmic."""
    half = num_buckets // 2
    exact = half // 2
    far = np.abs(distance)
    # In float32, like the original: truncation to integers makes differences in rounding visible.
    log = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    scaled = log / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    bucket = np.where(far < exact, far, np.minimum(exact + scaled.astype(np.int64), half - 1))
    return (bucket + half * (distance > 0)).astype(np.int32)


def position_bias(table: Float[Array, "buckets H"], length: int, max_distance: int) -> Float[Array, "H F F"]:
    """Each head's bias of the scores of queries (rows) and keys: one value per distance."""
    distances = np.arange(1 - length, length)
    by_distance = jnp.asarray(table)[relative_buckets(distances, table.shape[0], max_distance)]
    index = jnp.arange(length)
    return by_distance.T[:, index[None, :] - index[:, None] + length - 1]


class Attention(nn.Module):
    """Self-attention with a relative position bias, scaled by a gate of each query."""

    config: BeatsConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"], bias: Float[Array, "H F F"]) -> Float[Array, "B F D"]:
        """Features after attention; `bias` is from `position_bias`, the same for all layers."""
        c = self.config
        shape = (*x.shape[:2], c.num_heads, c.hidden_size // c.num_heads)
        project = lambda name: linear(c.hidden_size, ("embed", "features"), jnp.float32, name=name)
        q = project("q_proj")(x).reshape(shape)
        k = project("k_proj")(x).reshape(shape)
        v = project("v_proj")(x).reshape(shape)

        gates = linear(8, ("head", "gates"), jnp.float32, name="grep_linear")(q)
        gates = jax.nn.sigmoid(gates.reshape(*q.shape[:3], 2, 4).sum(-1))
        grep_a = parameter(self, "grep_a", nn.initializers.ones, ("features",), (c.num_heads,))
        gate = gates[..., 0] * (gates[..., 1] * grep_a - 1.0) + 2.0  # [B F H]

        # For half precision, the original divides scores by 32 and subtracts their maximum before the
        # bias is added. Neither changes the softmax.
        out = biased_attention(q, k, v, gate=gate, bias=bias).reshape(x.shape)
        return linear(c.hidden_size, ("features", "embed"), jnp.float32, name="out_proj")(out)


class Block(nn.Module):
    """One post-norm layer with deep norm: the residual is scaled up before each norm."""

    config: BeatsConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B F D"], bias: Float[Array, "H F F"]
    ) -> tuple[Float[Array, "B F D"], None]:
        """Returns (x, None), as nn.scan requires."""
        c = self.config
        alpha = (2 * c.num_layers) ** 0.25
        x = constrain(x, "windows", None, None)
        x = alpha * x + Attention(c, name="self_attn")(x, bias)
        x = layer_norm(LAYER_NORM_EPS, name="self_attn_layer_norm")(x)
        h = gelu(linear(c.intermediate_size, ("embed", "features"), jnp.float32, name="fc1")(x))
        x = alpha * x + linear(c.hidden_size, ("features", "embed"), jnp.float32, name="fc2")(h)
        x = layer_norm(LAYER_NORM_EPS, name="final_layer_norm")(x)
        self.sow("intermediates", "output", x)
        return x, None


class PositionConvolution(nn.Module):
    """A wide grouped convolution whose kernel is normalised per tap (weight norm, dim=2)."""

    config: BeatsConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        """GELU of the convolution, to be added to `x`."""
        c = self.config
        taps, width = c.conv_positions, c.hidden_size
        init, axes = nn.initializers.normal(math.sqrt(4 / (taps * width))), (None, None, "embed")
        v = parameter(self, "weight_v", init, axes, (taps, width // c.conv_groups, width))
        v = gather_weight(v, axes)
        norm = jnp.sqrt(jnp.sum(v.astype(jnp.float32) ** 2, axis=(1, 2)))
        g = parameter(self, "weight_g", lambda _: norm, (None,))
        b = parameter(self, "bias", nn.initializers.zeros, ("embed",), (width,))
        kernel = v.astype(jnp.float32) * (g.astype(jnp.float32) / norm)[:, None, None]
        convolve = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(1,),
            padding=[(taps // 2, taps // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=c.conv_groups,
        )
        y = map_window_shards(convolve, x, kernel)
        if taps % 2 == 0:
            y = y[:, :-1]  # an even kernel yields one frame too many
        return gelu(y + b.astype(jnp.float32))


class Encoder(nn.Module):
    """Position convolution, norm and layers."""

    config: BeatsConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "B F D"]) -> Float[Array, "B F D"]:
        """Features of F patches."""
        c = self.config
        position = PositionConvolution(c, name="pos_conv")(x)
        self.sow("intermediates", "pos_conv_out", position)
        x = layer_norm(LAYER_NORM_EPS, name="layer_norm")(x + position)
        self.sow("intermediates", "layer_norm_out", x)
        init, shape = nn.initializers.xavier_normal(), (c.num_buckets, c.num_heads)
        table = parameter(self, "relative_attention_bias", init, (None, "features"), shape)
        bias = position_bias(table.astype(jnp.float32), x.shape[1], c.max_distance)
        blocks = stack_layers(Block, c.num_layers, self.remat, in_axes=(nn.broadcast,))
        return blocks(c, name="layers")(x, bias)[0]


class Beats(nn.Module):
    """Kaldi filterbank energies to features of 16x16 patches, time-major."""

    config: BeatsConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(self, fbank: Float[Array, "B T M"]) -> Float[Array, "B F D"]:
        """Features of B chunks. `fbank` as from spectrogram.kaldi_fbank; F = (T // 16) * (M // 16)."""
        c = self.config
        p = c.patch_size
        x = (fbank - FBANK_MEAN) / (2 * FBANK_STD)
        rows, columns = x.shape[1] // p, x.shape[2] // p
        x = x[:, : rows * p, : columns * p].reshape(-1, rows, p, columns, p)
        x = jnp.swapaxes(x, 2, 3).reshape(-1, rows * columns, p * p)
        x = linear(c.embed_dim, ("patch", "embed"), jnp.float32, bias=False, name="patch_embedding")(x)
        self.sow("intermediates", "patch_embedding_out", x)
        x = layer_norm(LAYER_NORM_EPS, name="layer_norm")(x)
        self.sow("intermediates", "layer_norm_out", x)
        if c.embed_dim != c.hidden_size:
            x = linear(c.hidden_size, ("patch", "embed"), jnp.float32, name="post_extract_proj")(x)
            self.sow("intermediates", "post_extract_proj_out", x)
        x = Encoder(c, self.remat, name="encoder")(x)
        if c.predictor_classes and self.is_initializing():
            # Ola never uses the AudioSet head; it is kept for a complete export.
            linear(c.predictor_classes, ("embed", "classes"), jnp.float32, name="predictor")(x)
        return x


def flops(config: BeatsConfig, chunks: int, frames: int) -> float:
    """FLOPs of this many chunks of this many frames (patches) each."""
    c, width = config, config.hidden_size
    first = c.embed_dim * (c.patch_size**2 + (width if c.embed_dim != width else 0))
    convolution = c.conv_positions * width**2 / c.conv_groups
    weights = first + convolution + c.num_layers * width * (4 * width + 2 * c.intermediate_size)
    return chunks * frames * (2 * weights + c.num_layers * 4 * frames * width)
