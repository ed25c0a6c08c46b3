"""Compiling for GPUs that are not attached, with the CUDA plugin, which runs on any machine (ptxas included).

    pip install "ola_jax[aot-cuda]"

    mesh = jax.sharding.Mesh(find_topology("h100:8").devices, ("data",))
    lowered = jax.jit(step).lower(...)             # arguments with shardings on that mesh
    lowered.compile(compiler_options=OPTIONS)      # memory_analysis(), as_text(): as on the machine itself

This checks everything up to machine code (shared memory, registers, tile shapes, collectives).
It does not check numbers, speed, and choices made by trials on the device (autotuning of products, cuDNN).
"""

from typing import Any

from jax.experimental import topologies

from ola_jax.errors import OlaError, first_line

# Autotuning measures on a device, and there is none.
OPTIONS = {"xla_gpu_autotune_level": 0}

# XLA's description of a GPU; figures of NVIDIA's data sheets and CUDA's device query.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  l2_cache_size: 52428800 memory_bandwidth: {bandwidth} device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": HOPPER.format(name="NVIDIA H100 80GB HBM3", bandwidth=3352320000000, memory=84978434048),
    "h200": HOPPER.format(name="NVIDIA H200", bandwidth=4800000000000, memory=150754820096),
}


def is_gpu(name: str) -> bool:
    """True if the name is one of `find_topology`'s rather than a TPU topology's."""
    return name.split(":")[0] in GPUS


def find_topology(name: str) -> Any:
    """The topology of one machine: "h100:8" has eight GPUs, "h100" one.

    Raises OlaError for a name of another form, or if the CUDA plugin is not installed.
    """
    kind, _, count = name.partition(":")
    if not is_gpu(name) or not (count or "1").isdecimal() or int(count or 1) < 1:
        raise OlaError(
            f"topology {name!r}; expected a GPU and how many, such as h100:8; known: {', '.join(GPUS)}"
        )
    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=GPUS[kind], topology=f"1x1x{int(count or 1)}"
        )
    except Exception as error:  # several kinds, by what is missing
        raise OlaError(
            f"topology {name!r}: {first_line(error)}; expected the CUDA plugin "
            '(pip install "ola_jax[aot-cuda]"), '
            "and JAX_PLATFORMS=cpu where there is no GPU"
        ) from error
