"""Shape annotations are checked at every call, and JAX runs on the CPU (as 8 devices), in all tests."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping

jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all else uses the first

jaxtyping.install_import_hook("ola_jax", "beartype.beartype")
