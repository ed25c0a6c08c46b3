import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax.batch import IGNORE
from ola_jax.sharding import MeshConfig, make_mesh
from ola_jax.training.loss import cross_entropy

RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(2, 37, 8)).astype(np.float32)
KERNEL = RNG.normal(size=(8, 50)).astype(np.float32)
TARGETS = np.where(RNG.random((2, 37)) < 0.5, RNG.integers(0, 50, (2, 37)), IGNORE).astype(np.int32)


def plain(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same with all logits at once."""
    log_p = jax.nn.log_softmax(hidden @ kernel)
    picked = jnp.take_along_axis(log_p, jnp.maximum(TARGETS, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(TARGETS != IGNORE, picked, 0).sum()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
def test_chunks_change_neither_value_nor_gradient(chunk: int) -> None:
    total, count = cross_entropy(HIDDEN, KERNEL, TARGETS, chunk=chunk)
    np.testing.assert_allclose(total, plain(HIDDEN, KERNEL), rtol=1e-6)
    assert int(count) == (TARGETS != IGNORE).sum()
    actual = jax.grad(lambda h, k: cross_entropy(h, k, TARGETS, chunk=chunk)[0], (0, 1))(HIDDEN, KERNEL)
    expected = jax.grad(plain, (0, 1))(HIDDEN, KERNEL)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_logits_of_a_whole_row_never_exist() -> None:
    length, vocab = 4096, 999
    function = jax.jit(jax.grad(lambda h, k, t: cross_entropy(h, k, t, chunk=256)[0], (0, 1)))
    text = function.lower(
        jnp.zeros((1, length, 8)), jnp.zeros((8, vocab)), jnp.zeros((1, length), jnp.int32)
    ).as_text()
    assert f"256x{vocab}" in text
    assert f"{length}x{vocab}" not in text


def test_positions_without_target_have_no_gradient() -> None:
    gradient = jax.grad(lambda h: cross_entropy(h, KERNEL, TARGETS)[0])(HIDDEN)
    assert not np.asarray(gradient)[TARGETS == IGNORE].any()
    assert np.asarray(gradient)[TARGETS != IGNORE].any(axis=-1).all()


def test_each_token_meets_the_output_matrix_once_for_each_result() -> None:
    """Value and both gradients cost three products; without the matrix's gradient it is two."""
    of = lambda wanted: jax.jit(jax.grad(lambda h, k: cross_entropy(h, k, TARGETS, chunk=64)[0], wanted))
    products = lambda wanted: of(wanted).lower(HIDDEN, KERNEL).compile().as_text().count(" dot(")
    assert (products((0, 1)), products(0)) == (3, 2)


def test_many_chunks_in_half_precision_round_the_matrix_gradient_once() -> None:
    rng = np.random.default_rng(1)
    hidden, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, 2048, 8), (8, 16)))
    targets = rng.integers(0, 16, (1, 2048)).astype(np.int32)
    gradient = jax.grad(lambda k, chunk: cross_entropy(hidden, k, targets, chunk=chunk)[0])
    once, often = (np.asarray(gradient(kernel, chunk), np.float32) for chunk in (2048, 8))
    np.testing.assert_allclose(often, once, rtol=2**-7, atol=1e-6)  # a rounding of bfloat16 is 2**-8 at most


@pytest.mark.parametrize("sizes", [{"fsdp": 2, "tensor": 2, "context": 1}, {"tensor": 5}, {"context": 2}])
def test_a_mesh_changes_neither_value_nor_gradient(sizes: dict[str, int]) -> None:
    hidden, targets = HIDDEN[:, :36], TARGETS[:, :36]
    mean = lambda h, k: (lambda total, count: total / count)(*cross_entropy(h, k, targets, chunk=8))
    expected = jax.value_and_grad(mean, (0, 1))(hidden, KERNEL)
    with jax.set_mesh(make_mesh(MeshConfig(**sizes))):
        actual = jax.jit(jax.value_and_grad(mean, (0, 1)))(hidden, KERNEL)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
