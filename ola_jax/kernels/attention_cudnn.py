"""Attention over packed segments with cuDNN's flash attention, for NVIDIA GPUs from Ampere on.

It calls jax.nn.dot_product_attention, which takes segments as a mask of all pairs: memory grows with the
square of the length (2 bytes for each pair of a row), and blocks between segments are computed as well.
"""

import jax
import jax.numpy as jnp

from ola_jax.errors import OlaError
from ola_jax.kernels.attention_inputs import PackedInputs
from ola_jax.sharding import axis_size, platform
from ola_jax.typing import Array, DTypeLike, Float

HEAD_WIDTHS = "multiples of 8 up to 128 (from Hopper on, 256)"


def check_inputs(length: int, width: int, dtype: DTypeLike, *, splits_length: bool) -> None:
    """Raises OlaError for inputs that cuDNN does not support; the message names an alternative."""
    if platform() != "gpu":
        found = f"devices are {platform().upper()}s; expected NVIDIA GPUs"
    elif dtype not in (jnp.bfloat16, jnp.float16):
        found = f"{jnp.dtype(dtype).name}; expected bfloat16 or float16"
    elif width % 8 or width > 256:
        found = f"heads of width {width}; expected {HEAD_WIDTHS}"
    elif length % 2:
        found = f"{length} tokens; expected an even number"
    elif splits_length and axis_size("context") > 1:
        found = f"a mesh of context={axis_size('context')}; expected rows that are not split"
    else:
        return
    raise OlaError(f'cudnn attention: {found}; use attention="xla"')


def attend(inputs: PackedInputs) -> Float[Array, "B L H h"]:
    """Computes packed_attention for one device's rows and heads; queries and keys are the same tokens."""
    allowed = (inputs.q_segments[:, :, None] == inputs.k_segments[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        inputs.q, inputs.k, inputs.v, mask=allowed, is_causal=inputs.causal, implementation="cudnn"
    )
