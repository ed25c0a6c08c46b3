"""Figures that the compiled step returns besides its loss."""

import optax

from ola_jax.typing import Array, FlatParams, Float


def part(path: str) -> str:
    """The part that a parameter belongs to: llm, vision, ...; lora for adapters."""
    return path.split("/", 1)[0]


def gradient_norms(gradients: FlatParams) -> dict[str, Float[Array, ""]]:
    """The norm of all gradients as "grad_norm", and that of each part as "grad_norm/PART"."""
    parts = sorted({part(path) for path in gradients})
    part_norm = lambda name: optax.tree.norm({p: g for p, g in gradients.items() if part(p) == name})
    norms = {f"grad_norm/{name}": part_norm(name) for name in parts}
    return {"grad_norm": optax.tree.norm(gradients)} | norms
