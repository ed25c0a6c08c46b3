"""Peak figures of one device of each accelerator, from the vendors' pages.

TPUs: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x. GPUs: the data sheets of H100 SXM and H200 SXM
(dense, without sparsity). Read 2026-11-23.
"""

import dataclasses

from ola_jax.errors import OlaError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device; a TPU7x chip is two."""

    name: str
    flops: float  # per second, bfloat16 products
    memory: float  # bytes
    memory_bandwidth: float  # bytes per second
    link_bandwidth: float  # bytes per second to other chips, total of all links and both directions


GIB = 2.0**30
CHIPS = {  # by JAX's device_kind
    "TPU v4": Chip("TPU v4", 275e12, 32 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Chip("TPU v5e", 197e12, 16 * GIB, 819e9, 400e9),
    "TPU v5": Chip("TPU v5p", 459e12, 95 * GIB, 2765e9, 1200e9),
    "TPU v6 lite": Chip("TPU v6e", 918e12, 32 * GIB, 1638e9, 800e9),
    "TPU7x": Chip("TPU7x (half a chip)", 2307e12 / 2, 96 * GIB, 7380e9 / 2, 1200e9 / 2),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9, 900e9),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9, 900e9),
}


def find_chip(device_kind: str) -> Chip:
    """The figures of a device. Raises OlaError for an unknown one."""
    if device_kind not in CHIPS:
        raise OlaError(
            f"{device_kind!r}: no figures for this device; ola_jax/hardware.py has {', '.join(CHIPS)}"
        )
    return CHIPS[device_kind]
