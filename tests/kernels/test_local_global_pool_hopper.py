"""The pooling kernels for Hopper GPUs: their mathematics in plain JAX, the kernel itself in interpret mode.

The two are tested apart: everything around the one kernel, epilogues included, with a plain product in
place of the kernel (fast, at any size, in float32), and the kernel against that plain product.
Interpret mode has neither tiling nor limits of memory: test_local_global_pool_compiles_gpu.py has.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from ola_jax.errors import OlaError
from ola_jax.kernels import hopper_product
from ola_jax.kernels import local_global_pool_hopper as hopper
from ola_jax.kernels.local_global_pool import local_global_pool
from tests.kernels.pooling import distance, in_float64, inputs, with_gradients, with_raised_scores


def plain_product(a, b, *, by_group=(), by_member=(), outputs, epilogue, members, name, interpret):
    """hopper_product.product with complete arrays as tiles."""
    blocked = lambda x, n: x.astype(jnp.float32).reshape(len(x), -1, n, hopper_product.BLOCK)
    read = [*(blocked(x, 1) for x in by_group), *(blocked(x, members) for x in by_member)]
    written = [{} for _ in outputs]

    def write(i, member, tile):
        if i < len(outputs):
            written[i][member] = tile.astype(b.dtype)

    exact = jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)
    product = blocked(exact, members)
    epilogue([product[:, :, m] for m in range(members)], lambda i, m=0: read[i][:, :, m], write)
    assert [len(tiles) for tiles in written] == [members if each else 1 for each in outputs]
    stacked = (jnp.stack([tiles[m] for m in sorted(tiles)], axis=2) for tiles in written)
    return tuple(x.reshape(len(a), -1) for x in stacked)


def without_the_kernel(patch, x, params, grad):
    """The kernels' path in float32, with a plain product in the kernel's place."""
    patch.setattr(hopper, "product", plain_product)
    patch.setattr(hopper, "check_supported", lambda *_: None)
    return with_gradients(x, params, grad, "pallas", "gpu")


@settings(max_examples=6, deadline=None)
@given(
    groups=st.integers(1, 200),
    members=st.integers(1, 4),
    width=st.sampled_from([8, 64, 128, 130]),
    raised=st.sampled_from([0.0, 200.0, -200.0]),  # exp(200) overflows float32
    seed=st.integers(0, 2**31),
)
def test_the_mathematics_equals_the_reference_at_any_size(groups, members, width, raised, seed):
    x, params, grad = inputs(groups, members, width, seed=seed)
    if raised:
        params = with_raised_scores(params, raised)
    reference = with_gradients(x, params, grad, "xla")
    with pytest.MonkeyPatch.context() as patch:
        actual = without_the_kernel(patch, x, params, grad)
    size = max(float(jnp.linalg.norm(a)) for a in reference)  # with one member some gradients are zero
    for a, b in zip(actual, reference, strict=True):
        assert a.shape == b.shape
        assert float(jnp.linalg.norm(a - b)) < 1e-4 * max(float(jnp.linalg.norm(b)), size / 10)


def test_the_mathematics_equals_the_formula_in_float64(monkeypatch):
    x, params, grad = inputs(50, 4, 96)
    out, *_ = without_the_kernel(monkeypatch, x, params, grad)
    assert distance(out, in_float64(x, params)) < 2e-6


def test_the_tail_of_the_normal_distribution_is_exact_to_2e_7():
    x = jnp.linspace(-40, 40, 400_001)
    tail = np.asarray(hopper.normal_tail(x), np.float64)
    exact = ndtr(-np.abs(np.asarray(x, np.float64)))
    assert np.abs(tail - exact).max() < 2e-7
    assert np.abs((tail - exact) * np.asarray(x)).max() < 5e-7  # the error of GELU
    assert float(hopper.normal_tail(jnp.float32(jnp.inf))) == 0


EPILOGUES = {  # epilogue: inputs by group, inputs by member, outputs
    hopper.hidden_epilogue: (1, 0, (True, True)),
    hopper.pooled_epilogue: (0, 1, (False, True)),
    hopper.pre_gelu_gradient_epilogue: (0, 1, (True, True, False)),
    hopper.x_gradient_epilogue: (2, 1, (True,)),
}


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=lambda f: f.__name__)
def test_the_kernel_equals_a_plain_product_with_its_epilogue(epilogue):
    """Two tiles by two blocks, and more steps than there are stages."""
    rng = np.random.default_rng(1)
    draw = lambda *shape, scale=1.0: jnp.asarray(rng.normal(scale=scale, size=shape), jnp.bfloat16)
    by_group, by_member, outputs = EPILOGUES[epilogue]
    rows, depth, members, groups = 256, 320, 4, 128
    a, b = draw(rows, depth, scale=depth**-0.5), draw(depth, members * groups)
    others = {
        "by_group": tuple(draw(rows, groups) for _ in range(by_group)),
        "by_member": tuple(draw(rows, members * groups) for _ in range(by_member)),
        "outputs": outputs,
        "epilogue": epilogue,
        "members": members,
        "name": "kernel",
        "interpret": True,
    }
    for actual, expected in zip(
        hopper_product.product(a, b, **others), plain_product(a, b, **others), strict=True
    ):
        assert actual.dtype == expected.dtype == jnp.bfloat16
        assert actual.shape == expected.shape
        assert distance(actual, expected) < 5e-4  # a few differ in the last bit, as sums have another order


def close_to_float32(x, params, grad) -> None:
    kernel = with_gradients(x, params, grad, "pallas", "gpu")
    exact = with_gradients(*jax.tree.map(lambda a: a.astype(jnp.float32), (x, params, grad)), "xla")
    assert [a.dtype for a in kernel] == [jnp.bfloat16] * 5
    assert [a.shape for a in kernel] == [a.shape for a in exact]
    assert distance(kernel[0], in_float64(x, params)) < 0.005
    assert all(distance(a, b) < 0.02 for a, b in zip(kernel, exact, strict=True))


def test_forward_and_backward_equal_the_reference_with_scores_that_overflow_a_naive_softmax():
    x, params, grad = inputs(70, 4, 130, "bfloat16")
    close_to_float32(x, with_raised_scores(params, 200.0), grad)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    groups=st.integers(1, 140),
    members=st.integers(2, 4),
    width=st.sampled_from([16, 128, 200, 384]),
    seed=st.integers(0, 2**31),
)
def test_forward_and_backward_equal_the_reference_at_any_size(groups, members, width, seed):
    close_to_float32(*inputs(groups, members, width, "bfloat16", seed=seed))


@pytest.mark.parametrize(
    ("members", "dtype", "found"), [(4, "float32", "float32"), (5, "bfloat16", "groups of 5")]
)
def test_unsupported_inputs_are_refused(members, dtype, found):
    x, params, _ = inputs(2, members, 8, dtype)
    with pytest.raises(OlaError, match=f'{found}, expected .*use implementation="xla"'):
        local_global_pool(x, params, implementation="pallas", interpret=True, kernels="gpu")


def test_a_device_that_is_not_a_hopper_gpu_is_refused():
    x, params, _ = inputs(2, 4, 8, "bfloat16")
    with pytest.raises(OlaError, match="found cpu, expected a Hopper GPU"):
        local_global_pool(x, params, implementation="pallas", kernels="gpu")


@pytest.mark.parametrize("members", [1, 2, 3, 4])
@pytest.mark.parametrize("reads", [1, 4, 6])
def test_buffers_fill_the_shared_memory_and_no_more(members, reads):
    buffers = hopper_product.choose_buffers(members, reads)
    assert buffers.stages >= 3
    more = buffers._replace(stages=buffers.stages + 1)
    limit = hopper_product.SHARED_BYTES
    assert hopper_product.shared_bytes(members, buffers) <= limit
    assert buffers.stages == 4 or hopper_product.shared_bytes(members, more) > limit


def test_an_epilogue_that_reads_out_of_order_fails_when_it_is_traced():
    def out_of_order(products, read, write):
        write(0, 0, products[0] + read(0, 1) + read(0, 0))

    a, b = jnp.ones((128, 128), jnp.bfloat16), jnp.ones((128, 128), jnp.bfloat16)
    with pytest.raises(AssertionError, match=r"\(0, 1\) is read where \(0, 0\) is fetched"):
        hopper_product.product(
            a,
            b,
            by_member=(b,),
            outputs=(False,),
            epilogue=out_of_order,
            members=2,
            name="kernel",
            interpret=True,
        )
