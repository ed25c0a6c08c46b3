"""Options of the TPU compiler for the training step, beyond its defaults.

With its defaults, matrix products wait for the collectives of FSDP on v5p and v6e. Options are passed with
the jitted step, so that a run and its compilation without TPUs give the same program. Names: libtpu 0.0.52.

A v5e has no SparseCore: its gathers are fused with products by default. The options that do the same with
reduce-scatters (xla_tpu_enable_async_collective_fusion_fuse_reduce_scatter and
xla_enable_async_reduce_scatter_fusion) make fusions of the 7B step that do not fit its VMEM.
"""

import jax

# The SparseCores gather weights and scatter gradients while the TensorCores compute; by default on TPU7x.
_SPARSE_CORE = {
    "xla_tpu_enable_sparse_core_collective_offload_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_3d_all_gather": "true",
    "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
}
# By default weights are gathered piece by piece within a product, whose sum each piece reads and writes: 6.9
# TB of memory traffic in a 7B step on a TPU7x. The threshold (of a product's size, in MiB) turns that off.
_WHOLE_GATHERS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
_BY_DEVICE = {  # by device_kind
    "TPU v5": _SPARSE_CORE,
    "TPU v6 lite": _SPARSE_CORE,
    "TPU7x": _WHOLE_GATHERS,
}


def compiler_options() -> dict[str, str]:
    """Options for the devices of the mesh that is set; none but for these TPUs."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return _BY_DEVICE.get(device.device_kind, {}) if device else {}
