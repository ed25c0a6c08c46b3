"""What the compiled step tells of itself beside its loss."""

import optax

from ola_jax.typing import Array, Float


def part(path: str) -> str:
    """The part that a parameter belongs to: llm, vision, ...; lora for adapters."""
    return path.split("/", 1)[0]


def grad_norms(grads: dict[str, Array]) -> dict[str, Float[Array, ""]]:
    """The norm of all gradients, and that of each part as "grad_norm/PART"."""
    parts = sorted({part(path) for path in grads})
    of = lambda name: optax.tree.norm({p: g for p, g in grads.items() if part(p) == name})
    return {"grad_norm": optax.tree.norm(grads)} | {f"grad_norm/{name}": of(name) for name in parts}
