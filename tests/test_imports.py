"""Nothing is imported before it is used: neither kernels, nor libraries of media and checkpoints."""

import subprocess
import sys

import pytest

KERNELS = {
    "jax.experimental.pallas",
    "jax.experimental.mosaic",
    "ola_jax.kernels.hopper_product",
    "ola_jax.kernels.local_global_pool_hopper",
    "ola_jax.kernels.local_global_pool_tpu",
    "ola_jax.kernels.splash",
    "ola_jax.kernels.tpu_product",
}
LIBRARIES = {  # neither rich nor filelock: flax and jax import these
    *("PIL", "av", "grain", "huggingface_hub", "librosa", "orbax", "safetensors", "soundfile", "soxr"),
    *("tensorflow_datasets", "tokenizers", "torch", "transformers", "tyro"),
}
# All parts are traced; the decoder is run too, which takes seconds less than all of them.
FORWARD = """
import dataclasses, jax
from ola_jax import Ola
from ola_jax.models.ola import example_batch
from tests import tiny
assert tiny.CONFIG.attention == tiny.CONFIG.pooling == "auto"
init = lambda config: Ola(config).init_with_output(jax.random.key(0), example_batch(config))[0]
jax.eval_shape(lambda: init(tiny.CONFIG))
text = dataclasses.replace(tiny.CONFIG, vision=None, whisper=None, beats=None)
jax.jit(lambda: init(text))().block_until_ready()
"""


def modules(code: str) -> set[str]:
    """Modules that a new interpreter has imported after `code`, and their packages."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def loaded(names: set[str], among: set[str]) -> set[str]:
    """Those of `names` that are among the modules."""
    return {name for name in names if name in among}


@pytest.mark.parametrize(
    "code",
    ["import ola_jax", "import ola_jax.models.ola", "import ola_jax.training.step", FORWARD],
    ids=["package", "model", "step", "forward"],
)
def test_no_kernel_and_no_library_of_data_is_imported_before_it_is_chosen(code: str) -> None:
    assert not loaded(KERNELS | LIBRARIES, modules(code))


def test_the_package_alone_imports_neither_jax_nor_the_model() -> None:
    assert not loaded({"jax", "flax", "numpy", "ola_jax.models"}, modules("import ola_jax"))


@pytest.mark.parametrize(
    ("attention", "pooling", "chosen"),
    [
        ("splash", "xla", {"ola_jax.kernels.splash"}),
        ("xla", "pallas", {"ola_jax.kernels.local_global_pool_tpu", "ola_jax.kernels.tpu_product"}),
    ],
)
def test_a_kernel_that_is_chosen_is_imported_alone(attention: str, pooling: str, chosen: set[str]) -> None:
    code = f"""
import dataclasses, jax
from ola_jax import Ola
from ola_jax.models.ola import example_batch
from tests import tiny
config = dataclasses.replace(tiny.CONFIG, attention="{attention}", pooling="{pooling}")
jax.eval_shape(lambda: Ola(config).init(jax.random.key(0), example_batch(config)))
"""
    ours = {name for name in KERNELS if name.startswith("ola_jax.")}
    assert loaded(ours, modules(code)) == chosen
