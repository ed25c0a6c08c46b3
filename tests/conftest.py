"""Shape annotations are checked at every call, and JAX runs on the CPU (as 8 devices), in all tests.

Programs that several tests compile are compiled once: each process keeps them in a folder of its own until it
ends, and the commands that its tests start share another one.
"""

import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jaxtyping
import pytest

PROGRAMS = pathlib.Path(tempfile.mkdtemp(prefix="ola_jax_programs"))

jax.config.update("jax_num_cpu_devices", 8)  # for meshes; all else uses the first
jax.config.update("jax_compilation_cache_dir", str(PROGRAMS / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

jaxtyping.install_import_hook("ola_jax", "beartype.beartype")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # workers inherit the folder of the commands
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(PROGRAMS / "commands")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


def pytest_unconfigure() -> None:
    shutil.rmtree(PROGRAMS, ignore_errors=True)
