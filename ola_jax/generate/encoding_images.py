"""Large images encoded in pieces, each a layer or less, between which running answers advance.

The pieces of an image depend on its size alone, so that its features do not depend on what else runs.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ola_jax.kernels.attention import ENCODER_AXES, packed_attention
from ola_jax.kernels.attention_inputs import PackedInputs
from ola_jax.models.ola import Ola
from ola_jax.models.oryx_vit import Block, normalize
from ola_jax.sharding import platform
from ola_jax.typing import Array, Float, HostArray, Int, Params, UInt8

AT_ONCE = 1024  # images of up to so many patches are one piece
QUERIES_ON_CPU = 512  # of a piece of attention; on accelerators a layer is one piece


def encode_in_pieces(
    model: Ola,
    params: Params,
    patches: UInt8[HostArray, "N P"],
    image: Int[HostArray, "N"],
    place: Int[HostArray, "N 4"],
) -> Iterator[Float[Array, "G D"] | None]:
    """The features, behind None for each piece that comes before them; waits for each."""
    if len(patches) <= AT_ONCE:
        yield jax.block_until_ready(_encode(model, params, patches, image, place))
        return
    assert model.config.vision is not None, "only a model that has a vision encoder is given images"
    x = _embed(model, params, patches, place)
    for number in range(model.config.vision.num_layers):
        yield None
        layer = jnp.int32(number)
        if platform() != "cpu":
            x = jax.block_until_ready(_layer(model, params, layer, x, image))
            continue
        heads = jax.block_until_ready(_heads(model, params, layer, x))
        parts: list[Array] = []
        for first in range(0, len(patches), QUERIES_ON_CPU):
            yield None
            count = min(QUERIES_ON_CPU, len(patches) - first)
            part = _attend(model, heads, image, jnp.int32(first), count)
            parts.append(jax.block_until_ready(part))
        yield None
        x = jax.block_until_ready(_finish(model, params, layer, x, parts))
    yield None
    yield jax.block_until_ready(_project(model, params, x))


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: Ola, params: Params, patches: Array, image: Array, place: Array) -> Array:
    def features(m: Ola) -> Array:
        encoded = m.vision(normalize(patches[None]), image[None], place[None])
        return m.vision_projector(encoded)[0]

    found: Any = model.apply({"params": params}, method=features)
    return found


@functools.partial(jax.jit, static_argnames="model")
def _embed(model: Ola, params: Params, patches: Array, place: Array) -> Array:
    embed = lambda m: m.vision.embed(normalize(patches[None]), place[None])
    found: Any = model.apply({"params": params}, method=embed)
    return found


@functools.partial(jax.jit, static_argnames="model", donate_argnames="x")
def _layer(model: Ola, params: Params, layer: Array, x: Array, image: Array) -> Array:
    return _block(model).apply(_of_layer(params, layer), x, image[None])[0]


@functools.partial(jax.jit, static_argnames="model")
def _heads(model: Ola, params: Params, layer: Array, x: Array) -> Array:
    found: Any = _block(model).apply(_of_layer(params, layer), x, method="heads")
    return found


@functools.partial(jax.jit, static_argnames=("model", "count"))
def _attend(model: Ola, heads: Array, image: Array, first: Array, count: int) -> Array:
    """Attention of `count` queries from `first` on."""
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, first, count, axis=1)
    inputs = PackedInputs(cut(heads[0]), heads[1], heads[2], cut(image[None]), image[None], causal=False)
    return packed_attention(inputs, axes=ENCODER_AXES, implementation=model.config.attention)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="x")
def _finish(model: Ola, params: Params, layer: Array, x: Array, parts: list[Array]) -> Array:
    attended = jnp.concatenate(parts, axis=1)
    found: Any = _block(model).apply(_of_layer(params, layer), x, attended, method="finish")
    return found


@functools.partial(jax.jit, static_argnames="model")
def _project(model: Ola, params: Params, x: Array) -> Array:
    found: Any = model.apply({"params": params}, method=lambda m: m.vision_projector(x)[0])
    return found


def _block(model: Ola) -> Block:
    c = model.config
    assert c.vision is not None, "only a model that has a vision encoder is given images"
    return Block(c.vision, jnp.dtype(c.dtype), c.attention)


def _of_layer(params: Params, layer: Array) -> dict[str, Params]:
    return {"params": jax.tree.map(lambda x: x[layer], params["vision"]["blocks"])}
