"""The Qwen2.5 decoder: packed training, prefill and decoding with one set of layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ola_jax.config import Qwen2Config
from ola_jax.kernels.attention import Implementation, packed_attention
from ola_jax.models.layers import Remat, linear, stack_layers
from ola_jax.models.rotary import rope
from ola_jax.sharding import constrain
from ola_jax.typing import Array, DTypeLike, Float, Int

LayerCache = tuple[Float[Array, "B S K h"], Float[Array, "B S K h"]]  # keys, values of one layer


@struct.dataclass
class KVCache:
    """Keys and values of all layers, and to which segment each of the S slots belongs (0: none)."""

    k: Float[Array, "layers B S K h"]
    v: Float[Array, "layers B S K h"]
    segments: Int[Array, "B S"]
    length: Int[Array, ""]  # slots written so far


def empty_cache(config: Qwen2Config, batch: int, slots: int, dtype: DTypeLike) -> KVCache:
    """A cache of `slots` places per row with nothing in it."""
    shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
    return KVCache(
        k=jnp.zeros(shape, dtype),
        v=jnp.zeros(shape, dtype),
        segments=jnp.zeros((batch, slots), jnp.int32),
        length=jnp.int32(0),
    )


class Attention(nn.Module):
    """Causal grouped-query attention within segments."""

    config: Qwen2Config
    dtype: DTypeLike
    attention: Implementation

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        positions: Int[Array, "B L"],
        segments: Int[Array, "B L"],
        cache: LayerCache | None,
        cache_segments: Int[Array, "B S"] | None,
        cache_length: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B L D"], LayerCache | None]:
        """The layer's output, and the cache with the new keys and values written behind the old."""
        c = self.config
        kv_width = c.num_kv_heads * c.head_dim
        q = linear(c.num_heads * c.head_dim, ("embed", "heads"), self.dtype, name="q_proj")(x)
        k = linear(kv_width, ("embed", "kv_heads"), self.dtype, name="k_proj")(x)
        v = linear(kv_width, ("embed", "kv_heads"), self.dtype, name="v_proj")(x)
        turn = lambda y: rope(y, positions, theta=c.rope_theta, scaling=c.rope_scaling)
        q = turn(q.reshape(*x.shape[:2], c.num_heads, c.head_dim))
        k = turn(k.reshape(*x.shape[:2], c.num_kv_heads, c.head_dim))
        v = v.reshape(k.shape)
        if cache is None:
            out = packed_attention(q, k, v, segments, segments, causal=True, implementation=self.attention)
        else:
            write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, cache_length, 1)
            cache = write(cache[0], k), write(cache[1], v)
            out = packed_attention(q, *cache, segments, cache_segments, causal=True, q_offset=cache_length)
        out = out.reshape(*x.shape[:2], -1)
        return linear(c.hidden_size, ("heads", "embed"), self.dtype, bias=False, name="o_proj")(out), cache


class MLP(nn.Module):
    """SwiGLU."""

    config: Qwen2Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Gate, raise, lower."""
        c = self.config
        gate = linear(c.intermediate_size, ("embed", "mlp"), self.dtype, bias=False, name="gate_proj")(x)
        up = linear(c.intermediate_size, ("embed", "mlp"), self.dtype, bias=False, name="up_proj")(x)
        down = linear(c.hidden_size, ("mlp", "embed"), self.dtype, bias=False, name="down_proj")
        return down(jax.nn.silu(gate) * up)


class Block(nn.Module):
    """One decoder layer: pre-norm attention and MLP."""

    config: Qwen2Config
    dtype: DTypeLike
    attention: Implementation

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        cache: LayerCache | None,
        positions: Int[Array, "B L"],
        segments: Int[Array, "B L"],
        cache_segments: Int[Array, "B S"] | None,
        cache_length: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B L D"], LayerCache | None]:
        """(x, this layer's cache), as nn.scan wants it."""
        x = constrain(x, "rows", "length", None)
        norm = lambda name: nn.RMSNorm(epsilon=self.config.rms_norm_eps, dtype=jnp.float32, name=name)
        attention = Attention(self.config, self.dtype, self.attention, name="self_attn")
        h = norm("input_layernorm")(x).astype(self.dtype)
        h, cache = attention(h, positions, segments, cache, cache_segments, cache_length)
        x = x + h
        h = norm("post_attention_layernorm")(x).astype(self.dtype)
        x = x + MLP(self.config, self.dtype, name="mlp")(h)
        self.sow("intermediates", "output", x)
        return x, cache


class Qwen2(nn.Module):
    """Embedding, layers, final norm, output matrix."""

    config: Qwen2Config
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    attention: Implementation = "auto"

    def setup(self) -> None:
        c = self.config
        self.embed_tokens = nn.Embed(
            c.vocab_size,
            c.hidden_size,
            dtype=self.dtype,
            embedding_init=nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "width")),
        )
        layers = stack_layers(Block, c.num_layers, self.remat, in_axes=(0, *[nn.broadcast] * 4))
        self.layers = layers(c, self.dtype, self.attention)
        self.norm = nn.RMSNorm(epsilon=c.rms_norm_eps, dtype=jnp.float32)
        self.lm_head = linear(c.vocab_size, ("embed", "vocab"), self.dtype, bias=False)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Embeddings of token ids."""
        # Each device looks up the share of the width that it has, for the tokens of all; then widths
        # are exchanged for rows. Less moves than if the table were gathered.
        table = constrain(jnp.asarray(self.embed_tokens.embedding, self.dtype), "vocab", "width")
        x = jnp.take(table, constrain(tokens, "copies", "length"), axis=0)
        return constrain(constrain(x, "copies", "length", "width"), "rows", "length", None)

    def __call__(
        self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], segments: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """Hidden states after the final norm, of packed rows of embeddings."""
        x, _ = self.layers(x, None, positions, segments, None, None)
        return self.norm(x).astype(self.dtype)

    def extend(
        self,
        x: Float[Array, "B L D"],
        positions: Int[Array, "B L"],
        segments: Int[Array, "B L"],
        cache: KVCache,
    ) -> tuple[Float[Array, "B L D"], KVCache]:
        """As `__call__`, after all that `cache` holds; and the cache with these L places added."""
        filled = jax.lax.dynamic_update_slice_in_dim(cache.segments, segments, cache.length, 1)
        x, (k, v) = self.layers(x, (cache.k, cache.v), positions, segments, filled, cache.length)
        cache = KVCache(k=k, v=v, segments=filled, length=cache.length + x.shape[1])
        return self.norm(x).astype(self.dtype), cache

    def logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Scores of the next token, in float32."""
        return self.lm_head(hidden).astype(jnp.float32)


def flops(config: Qwen2Config, tokens: int) -> float:
    """FLOPs of a row of this many tokens, logits included; attention over half of it, for it is causal."""
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    weights = config.hidden_size * (2 * heads + 2 * kv_heads + 3 * config.intermediate_size)
    layer = 2 * tokens * weights + 4 * tokens**2 * heads / 2
    return config.num_layers * layer + logits_flops(config, tokens)


def logits_flops(config: Qwen2Config, tokens: int) -> float:
    """FLOPs of the logits of this many tokens."""
    return 2.0 * tokens * config.hidden_size * config.vocab_size
