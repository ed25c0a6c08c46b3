"""The axis letters and array types of the package.

    B  rows of a batch                    D  model width (of whichever part)
    L  tokens of a row                    H  query heads          K  key/value heads
    S  tokens attended to (keys)          h  width of one head
    W  attention windows of a row         F  frames (time steps) of an audio encoder
    N  patches of a window                M  mel bins
    P  bytes of a patch (16 * 16 * 3)     V  vocabulary
    G  groups of 2x2 patches              R  rows of a feature table
    C  audio chunks of a row              T  samples of a chunk (16 kHz)

Shapes are written in these letters, for example `Float[Array, "B L D"]`; in the tests they are
checked at every call.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Key, Shaped, UInt8, UInt32

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

    Array = jax.Array  # on a device, or traced
    AnyArray = jax.Array | np.ndarray  # on the device or on the host
HostArray = np.ndarray  # in the memory of the host, as records, samples and checkpoint files are
Params = dict[str, Any]  # a nested dict of arrays
FlatParams = dict[str, Any]  # {path: array}, a path such as "llm/layers/mlp/up_proj/kernel"

__all__ = [
    "AnyArray",
    "Array",
    "Bool",
    "DTypeLike",
    "FlatParams",
    "Float",
    "HostArray",
    "Int",
    "Int8",
    "Key",
    "Params",
    "Shaped",
    "UInt8",
    "UInt32",
]


def __getattr__(name: str) -> Any:
    # JAX is imported when first needed: processes that assemble rows start without it.
    if name not in ("AnyArray", "Array", "DTypeLike"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import jax
    from jax.typing import DTypeLike

    return {"AnyArray": jax.Array | np.ndarray, "Array": jax.Array, "DTypeLike": DTypeLike}[name]
