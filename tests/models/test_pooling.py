"""The pooling kernel within the model, in interpret mode: on one device and on a mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from ola_jax import sharding
from ola_jax.models.pooling import LocalGlobalPooling
from ola_jax.sharding import MeshConfig


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(data=2, fsdp=2)], ids=["one", "four"])
def test_the_kernel_has_the_gradients_of_the_reference(mesh: MeshConfig) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 3, 4, 32)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(8, 3, 32)), jnp.float32)
    params = nn.unbox(LocalGlobalPooling().init(jax.random.key(0), x))

    def gradients(implementation: str) -> tuple:
        module = LocalGlobalPooling(implementation=implementation)
        total = lambda params, x: (module.apply(params, x) * weight).sum()
        return jax.jit(jax.value_and_grad(total, (0, 1)))(params, x)

    expected = gradients("xla")
    with jax.set_mesh(sharding.make_mesh(mesh)), pltpu.force_tpu_interpret_mode():
        actual = gradients("pallas")
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(float(np.abs(b).max()), 1.0))
