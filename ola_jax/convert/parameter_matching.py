"""Matching released tensors with our parameters; none of either may be left over."""

import dataclasses
from collections.abc import Mapping

from ola_jax.config import OlaConfig
from ola_jax.convert.names import BY_PATH, Entry, num_layers
from ola_jax.errors import OlaError
from ola_jax.models.ola import parameter_shapes

LISTED = 8  # keys that an error names of each kind


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of our tree and the tensors that make it up, layer by layer."""

    entry: Entry
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    copies: tuple[str, ...] = ()  # further tensors that must equal the first


def match_parameters(config: OlaConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> list[Leaf]:
    """The leaves of the model with their tensors. `shapes`: of the tensors of a released checkpoint.

    Raises OlaError unless every leaf is covered, in its shape, and every tensor is used exactly once: the
    original leaves some missing tensors at random values (quirks C4 and C6).
    """
    leaves: list[Leaf] = []
    used: set[str] = set()
    problems: dict[str, list[str]] = {"missing": [], "unused": [], "mis-shaped": []}
    for path, leaf in parameter_shapes(config).items():
        entry = BY_PATH[path]
        keys = entry.keys(num_layers(config, entry))
        if entry.copies:  # one is enough; further ones must be equal
            keys = [key for key in keys if key in shapes] or keys[:1]
        expected = entry.torch_shape(leaf.shape)
        for key in keys:
            if key not in shapes:
                problems["missing"].append(f"{key} {list(expected)}")
            elif tuple(shapes[key]) != expected:
                problems["mis-shaped"].append(f"{key} {list(shapes[key])}, expected {list(expected)}")
        used.update(keys)
        main = keys[:1] if entry.copies else keys
        leaves.append(Leaf(entry, leaf.shape, tuple(main), tuple(keys[len(main) :])))
    problems["unused"] = [f"{key} {list(shapes[key])}" for key in shapes if key not in used]
    lines = [
        f"{len(found)} {kind}: {'; '.join(found[:LISTED])}" + (" ..." if len(found) > LISTED else "")
        for kind, found in problems.items()
        if found
    ]
    if lines:
        raise OlaError(
            f"{where}: tensors do not fit the model that config.json and the shapes describe: "
            + " | ".join(lines)
        )
    return leaves
