"""What the training step asks of the TPU compiler beyond its defaults.

Its defaults leave the collectives of FSDP waiting on v5p and v6e, and reduce-scatters on v5e. Options go with
the jitted step, so that a run and its compilation without TPUs are the same program. Names: libtpu 0.0.52.
"""

import jax

# The SparseCores gather weights and scatter gradients while the TensorCores compute; by default on TPU7x.
_SPARSE_CORE = {
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
}
# Without SparseCores, products are interleaved with the steps of a collective: gathers by default.
_FUSED = {
    "xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter": "true",
    "xla_enable_async_reduce_scatter_fusion": "true",
}
_OF_DEVICE = {"TPU v5": _SPARSE_CORE, "TPU v6 lite": _SPARSE_CORE, "TPU v5 lite": _FUSED}  # by device_kind


def compiler_options() -> dict[str, str]:
    """Options for the devices of the mesh that is set; none for others than these TPUs."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return _OF_DEVICE.get(device.device_kind, {}) if device else {}
