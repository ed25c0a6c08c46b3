"""Inputs of attention: within packed rows, and over a cache."""

import dataclasses

from ola_jax.typing import Array, Float, Int, Shaped

RESIDUALS = "attention"  # name of what attention's backward pass needs of the forward, for remat policies


@dataclasses.dataclass(frozen=True, eq=False)
class PackedInputs:
    """Packed rows, in which a query sees the keys of its own segment only."""

    q: Float[Array, "B L H h"]
    k: Float[Array, "B S K h"]  # H is a multiple of K: neighbouring query heads share a key head
    v: Float[Array, "B S K h"]
    q_segments: Int[Array, "B L"]  # numbers from 1; 0 is padding
    k_segments: Int[Array, "B S"]
    causal: bool  # a query sees no key after its own position
    q_offset: Int[Array, ""] | int = 0  # position of the first query among the keys


@dataclasses.dataclass(frozen=True, eq=False)
class CachedInputs:
    """Rows of queries, and a cache with the keys of each row's slot, those of the queries included.

    Row b has slot `slot + b`; its query i has position `start[b] + i` and sees the positions up to its own.
    """

    q: Float[Array, "B L H h"]
    k: Shaped[Array, "layers slots S K h"]  # as q, or int8 with scales
    v: Shaped[Array, "layers slots S K h"]
    layer: Int[Array, ""]
    slot: Int[Array, ""] | int
    start: Int[Array, "B"]
    k_scale: Float[Array, "layers slots S K"] | None = None
    v_scale: Float[Array, "layers slots S K"] | None = None
