"""The Qwen2.5 decoder: packed training, prefill and decoding with one set of layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct, traverse_util
from jax.ad_checkpoint import checkpoint_name

from ola_jax.config import Qwen2Config, Remat
from ola_jax.kernels.attention import Implementation, cached_attention, packed_attention
from ola_jax.kernels.attention_inputs import CachedInputs, PackedInputs
from ola_jax.models.layers import linear, stack_layers
from ola_jax.models.quantization import quantize
from ola_jax.models.remat import GATE, PROJECTIONS
from ola_jax.models.rotary import rope
from ola_jax.sharding import constrain
from ola_jax.typing import Array, Bool, DTypeLike, Float, Int, Params, Shaped

CACHE_AXES = (None, None, None, "kv_heads", None)
CACHE_BLOCK = 128  # the number of positions of a slot is a multiple of it


@struct.dataclass
class KVCache:
    """Keys and values of all layers: a slot for each answer, with S positions for its tokens.

    If they are int8, they have scales: one for each token and head.
    """

    k: Shaped[Array, "layers slots S K h"]
    v: Shaped[Array, "layers slots S K h"]
    k_scale: Float[Array, "layers slots S K"] | None = None
    v_scale: Float[Array, "layers slots S K"] | None = None


def empty_cache(config: Qwen2Config, slots: int, positions: int, *, dtype: DTypeLike) -> KVCache:
    """An empty cache of at least this many positions in each slot; dtype int8 adds scales."""
    positions += -positions % CACHE_BLOCK
    shape = (config.num_layers, slots, positions, config.num_kv_heads, config.head_dim)
    empty = lambda: jnp.zeros(shape, dtype)
    if jnp.dtype(dtype) != jnp.int8:
        return KVCache(k=empty(), v=empty())
    scale = lambda: jnp.zeros(shape[:-1], jnp.float32)
    return KVCache(k=empty(), v=empty(), k_scale=scale(), v_scale=scale())


@struct.dataclass
class Packed:
    """Positions and segments of the tokens of packed rows."""

    positions: Int[Array, "B L"]
    segments: Int[Array, "B L"]


@struct.dataclass
class Behind:
    """Positions of tokens that follow those in a cache: row b in slot `slot + b`."""

    slot: Int[Array, ""]
    start: Int[Array, "B"]  # position of each row's first token
    kept: Bool[Array, "B"]  # rows whose keys and values are written to the cache


class Attention(nn.Module):
    """Causal grouped-query attention within segments, or over a cache."""

    config: Qwen2Config
    dtype: DTypeLike
    attention: Implementation

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        where: Packed | Behind,
        cache: KVCache | None,
        layer: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B L D"], KVCache | None]:
        """The layer's output, and the cache with the new keys and values of this layer in it."""
        c = self.config
        kv_width = c.num_kv_heads * c.head_dim
        q = linear(c.num_heads * c.head_dim, ("embed", "heads"), self.dtype, name="q_proj")(x)
        k = linear(kv_width, ("embed", "kv_heads"), self.dtype, name="k_proj")(x)
        v = linear(kv_width, ("embed", "kv_heads"), self.dtype, name="v_proj")(x)
        if isinstance(where, Packed):
            positions = where.positions
        else:
            positions = where.start[:, None] + jnp.arange(x.shape[1])
        turn = lambda y: rope(y, positions, theta=c.rope_theta, scaling=c.rope_scaling)
        q = turn(q.reshape(*x.shape[:2], c.num_heads, c.head_dim))
        k = turn(k.reshape(*x.shape[:2], c.num_kv_heads, c.head_dim))
        v = v.reshape(k.shape)
        q, k, v = (checkpoint_name(y, PROJECTIONS) for y in (q, k, v))
        if isinstance(where, Packed):
            packed = PackedInputs(q, k, v, where.segments, where.segments, causal=True)
            out = packed_attention(packed, implementation=self.attention)
        else:
            assert cache is not None, "tokens that follow a cache need the cache"
            assert layer is not None, "the number of the layer is needed to find its part of the cache"
            cache = _extended(cache, k, v, layer, where)
            scales = cache.k_scale, cache.v_scale
            cached = CachedInputs(q, cache.k, cache.v, layer, where.slot, where.start, *scales)
            out = cached_attention(cached, implementation=self.attention)
        out = out.reshape(*x.shape[:2], -1)
        return linear(c.hidden_size, ("heads", "embed"), self.dtype, bias=False, name="o_proj")(out), cache


def _extended(
    cache: KVCache,
    k: Float[Array, "B L K h"],
    v: Float[Array, "B L K h"],
    layer: Int[Array, ""],
    where: Behind,
) -> KVCache:
    """The cache with the new keys and values of a layer in it."""
    write = lambda old, new: _write(old, new, layer, where)
    if cache.k_scale is None or cache.v_scale is None:
        return KVCache(k=write(cache.k, k), v=write(cache.v, v))
    (k, k_scale), (v, v_scale) = quantize(k, axis=-1), quantize(v, axis=-1)
    return KVCache(
        k=write(cache.k, k),
        v=write(cache.v, v),
        k_scale=write(cache.k_scale, k_scale),
        v_scale=write(cache.v_scale, v_scale),
    )


def _write(
    cache: Shaped[Array, "layers slots S K *h"],
    new: Shaped[Array, "B L K *h"],
    layer: Int[Array, ""],
    where: Behind,
) -> Shaped[Array, "layers slots S K *h"]:
    """The cache with the new keys, values or scales of a layer written to their positions."""
    axes = CACHE_AXES[: cache.ndim]
    if len(new) == 1:  # one slice is faster than many scattered positions
        start: list[Array | int] = [layer, where.slot, where.start[0], *[0] * (new.ndim - 2)]
        old = jax.lax.dynamic_slice(cache, start, (1, *new.shape))
        cache = jax.lax.dynamic_update_slice(cache, jnp.where(where.kept[0], new[None], old), start)
        return constrain(cache, *axes)
    slots = where.slot + jnp.arange(len(new))[:, None]
    positions = jnp.where(where.kept, where.start, cache.shape[2])[:, None] + jnp.arange(new.shape[1])
    cache = jnp.asarray(cache).at[layer, slots, positions].set(new, mode="drop", unique_indices=True)
    return constrain(cache, *axes)


class MLP(nn.Module):
    """SwiGLU."""

    config: Qwen2Config
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Expands with a gate, projects back."""
        c = self.config
        gate = linear(c.intermediate_size, ("embed", "mlp"), self.dtype, bias=False, name="gate_proj")(x)
        up = linear(c.intermediate_size, ("embed", "mlp"), self.dtype, bias=False, name="up_proj")(x)
        gate = checkpoint_name(gate, GATE)
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
        carry: tuple[Float[Array, "B L D"], KVCache | None],
        layer: Int[Array, ""] | None,
        where: Packed | Behind,
    ) -> tuple[tuple[Float[Array, "B L D"], KVCache | None], None]:
        """Returns ((x, cache), None), as nn.scan requires."""
        x, cache = carry
        x = constrain(x, "rows", "length", None)
        norm = lambda name: nn.RMSNorm(epsilon=self.config.rms_norm_eps, dtype=jnp.float32, name=name)
        attention = Attention(self.config, self.dtype, self.attention, name="self_attn")
        h = norm("input_layernorm")(x).astype(self.dtype)
        h, cache = attention(h, where, cache, layer)
        x = checkpoint_name(x + h, PROJECTIONS)
        h = norm("post_attention_layernorm")(x).astype(self.dtype)
        x = x + MLP(self.config, self.dtype, name="mlp")(h)
        self.sow("intermediates", "output", x)
        return (x, cache), None


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
        layers = stack_layers(Block, c.num_layers, self.remat, in_axes=(0, nn.broadcast))
        self.layers = layers(c, self.dtype, self.attention)
        self.norm = nn.RMSNorm(epsilon=c.rms_norm_eps, dtype=jnp.float32)
        self.lm_head = linear(c.vocab_size, ("embed", "vocab"), self.dtype, bias=False)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Embeddings of token ids."""
        # Each device looks up its share of the width for all tokens; then widths are exchanged for
        # rows. This moves less data than gathering the table.
        table = constrain(jnp.asarray(self.embed_tokens.embedding, self.dtype), "vocab", "width")
        x = jnp.take(table, constrain(tokens, "copies", "length"), axis=0)
        return constrain(constrain(x, "copies", "length", "width"), "rows", "length", None)

    def __call__(
        self, x: Float[Array, "B L D"], positions: Int[Array, "B L"], segments: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """Hidden states after the final norm, of packed rows of embeddings."""
        (x, _), _ = self.layers((x, None), None, Packed(positions, segments))
        return self.norm(x).astype(self.dtype)

    def extend(
        self, x: Float[Array, "B L D"], where: Behind, cache: KVCache
    ) -> tuple[Float[Array, "B L D"], KVCache]:
        """Hidden states of rows that follow those in the cache, and the cache with the rows added.

        A token sees the positions of its slot up to its own.
        """
        separate = self.variables["params"]["layers"]
        if "0" in separate:  # `separate_layers`
            block = Block(self.config, self.dtype, self.attention, parent=None)
            for number in range(self.config.num_layers):
                variables = {"params": separate[str(number)]}
                (x, cache), _ = block.apply(variables, (x, cache), jnp.int32(number), where)
            return self.norm(x).astype(self.dtype), cache
        layers = jnp.arange(self.config.num_layers)
        (x, cache), _ = self.layers((x, cache), layers, where)
        return self.norm(x).astype(self.dtype), cache

    def logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Scores of the next token, in float32."""
        return self.lm_head(hidden).astype(jnp.float32)


def separate_layers(params: Params) -> Params:
    """The decoder's parameters with those of each layer apart, for `extend`: "layers/0/mlp", ...

    XLA's GPU backend copies the weights of a layer out of a stack before it uses them; separate ones it reads
    where they are. Stacks are taken apart one at a time. Separate ones stay as they are.
    """
    if "0" in params["layers"]:
        return params
    stacks = traverse_util.flatten_dict(params["layers"], sep="/")
    flat: dict[str, Any] = {}
    for path in list(stacks):
        stack = stacks.pop(path)
        flat |= {f"{number}/{path}": part for number, part in enumerate(stack)}
    return {**params, "layers": traverse_util.unflatten_dict(flat, sep="/")}


def flops(config: Qwen2Config, tokens: int) -> float:
    """FLOPs of a row of this many tokens, logits included; attention over half of it, for it is causal."""
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    weights = config.hidden_size * (2 * heads + 2 * kv_heads + 3 * config.intermediate_size)
    layer = 2 * tokens * weights + 4 * tokens**2 * heads / 2
    return config.num_layers * layer + logits_flops(config, tokens)


def recomputed_flops(config: Qwen2Config, tokens: int, remat: Remat) -> float:
    """FLOPs of a row that the backward pass of the layers repeats.

    Attention counts as kept where the policy names it; attention that computes all scores at once and cuDNN's
    are recomputed under every policy but "none".
    """
    heads, kv_heads = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    up = 2.0 * tokens * config.hidden_size * config.intermediate_size
    projections = 2.0 * tokens * config.hidden_size * (2 * heads + 2 * kv_heads)
    attention = 4 * tokens**2 * heads / 2
    again: dict[Remat, float] = {
        "full": 2 * up + projections + attention,
        "attention": 2 * up + projections,
        "projections": 2 * up,
        "gate": up,
    }
    return config.num_layers * again.get(remat, 0.0)


def logits_flops(config: Qwen2Config, tokens: int) -> float:
    """FLOPs of the logits of this many tokens."""
    return 2.0 * tokens * config.hidden_size * config.vocab_size
