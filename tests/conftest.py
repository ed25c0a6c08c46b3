"""Shape annotations are checked at every call, and JAX runs on the CPU, in all tests."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jaxtyping

jaxtyping.install_import_hook("ola_jax", "beartype.beartype")
