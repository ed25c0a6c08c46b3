"""Attention over a cache: against the plain form, and independent of neighbours bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ola_jax import sharding
from ola_jax.errors import OlaError
from ola_jax.kernels import attention_xla
from ola_jax.kernels.attention import cached_attention
from ola_jax.kernels.attention_inputs import CachedInputs, PackedInputs
from ola_jax.models.quantization import quantize
from ola_jax.sharding import MeshConfig

LAYERS, SLOTS, PLACES, KV_HEADS, WIDTH = 2, 3, 512, 2, 8


def cache(dtype: str = "float32") -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shape = (LAYERS, SLOTS, PLACES, KV_HEADS, WIDTH)
    return jnp.asarray(rng.normal(size=shape), dtype), jnp.asarray(rng.normal(size=shape), dtype)


def queries(rows: int, length: int, dtype: str = "float32") -> jax.Array:
    rng = np.random.default_rng(rows * 1000 + length)
    return jnp.asarray(rng.normal(size=(rows, length, 3 * KV_HEADS, WIDTH)), dtype)


def attended(q: jax.Array, k: jax.Array, v: jax.Array, slot: int, start: list[int], **how: str) -> jax.Array:
    run = jax.jit(
        lambda q, k, v, slot, start: cached_attention(CachedInputs(q, k, v, jnp.int32(1), slot, start), **how)
    )
    return run(q, k, v, jnp.int32(slot), jnp.array(start, jnp.int32))


def plain(q: jax.Array, k: jax.Array, v: jax.Array, slot: int, start: int) -> jax.Array:
    end = start + q.shape[1]
    cut = lambda x: x[1, slot : slot + 1, :end]
    ones = lambda n: jnp.ones((1, n), jnp.int32)
    inputs = PackedInputs(q, cut(k), cut(v), ones(q.shape[1]), ones(end), True, start)
    return attention_xla.attend_unblocked(inputs)


@pytest.mark.parametrize("start", [[0, 0, 0], [5, 127, 128], [510, 0, 300]])
def test_each_row_sees_its_own_slot_up_to_its_own_place(start: list[int]) -> None:
    (k, v), q = cache(), queries(3, 1)
    out = attended(q, k, v, 0, start)
    for row in range(3):
        expected = plain(q[row : row + 1], k, v, row, start[row])
        np.testing.assert_allclose(out[row], expected[0], atol=2e-6)


@pytest.mark.parametrize("implementation", ["xla", "splash"])
@pytest.mark.parametrize("start", [0, 128, 256])
def test_a_chunk_of_a_prompt_sees_what_was_read_before(implementation: str, start: int) -> None:
    (k, v), q = cache(), queries(1, 128)
    out = attended(q, k, v, 2, [start], implementation=implementation)
    np.testing.assert_allclose(out, plain(q, k, v, 2, start), atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_longer_neighbours_change_no_bit(dtype: str) -> None:
    (k, v), q = cache(dtype), queries(3, 1, dtype)
    alone = attended(q, k, v, 0, [70, 0, 0])
    for others in ([127, 128], [511, 300]):
        np.testing.assert_array_equal(attended(q, k, v, 0, [70, *others])[0], alone[0])


@pytest.mark.parametrize(("implementation", "length"), [("xla", 1), ("xla", 128), ("splash", 128)])
def test_what_stands_behind_the_end_may_be_anything(implementation: str, length: int) -> None:
    (k, v), q = cache(), queries(1, length)
    spoilt = lambda x: x.at[:, :, 60 + length :].set(jnp.nan)
    out = attended(q, spoilt(k), spoilt(v), 1, [60], implementation=implementation)
    np.testing.assert_array_equal(out, attended(q, k, v, 1, [60], implementation=implementation))


def test_what_a_form_cannot_do_is_refused() -> None:
    k, v = cache()
    with pytest.raises(OlaError, match="cudnn attention: does not support the cache"):
        attended(queries(1, 128), k, v, 0, [0], implementation="cudnn")
    with pytest.raises(OlaError, match="1 rows of 100 tokens on 1 devices"):
        attended(queries(1, 100), k, v, 0, [0], implementation="splash")
    with pytest.raises(OlaError, match="3 rows of 128 tokens"):
        attended(queries(3, 128), k, v, 0, [0, 0, 0], implementation="splash")
    with (
        jax.set_mesh(sharding.make_mesh(MeshConfig(tensor=2))),
        pytest.raises(OlaError, match="1 rows of 128 tokens on 2 devices"),
    ):
        attended(queries(1, 128), k, v, 0, [0], implementation="splash")


def test_a_step_of_decoding_is_by_xla_whatever_reads_the_prompts() -> None:
    (k, v), q = cache(), queries(3, 1)
    by_xla = attended(q, k, v, 0, [5, 127, 128], implementation="xla")
    np.testing.assert_array_equal(attended(q, k, v, 0, [5, 127, 128], implementation="splash"), by_xla)


@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_int8_keys_and_values_are_close_and_what_stands_behind_the_end_may_be_anything(
    implementation: str,
) -> None:
    (k, v), q = cache(), queries(1, 128)
    (k8, k_scale), (v8, v_scale) = quantize(k, axis=-1), quantize(v, axis=-1)

    def run(k_scale: jax.Array, v_scale: jax.Array, start: int) -> np.ndarray:
        where = jnp.int32(1), jnp.int32(2), jnp.array([start], jnp.int32)
        inputs = CachedInputs(q, k8, v8, *where, k_scale, v_scale)
        return np.asarray(cached_attention(inputs, implementation=implementation))

    exact = np.asarray(plain(q, k, v, 2, 128))
    near = run(k_scale, v_scale, 128)
    assert 1e-4 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.01
    spoilt = lambda scale: scale.at[:, :, 256:].set(jnp.nan)
    np.testing.assert_array_equal(run(spoilt(k_scale), spoilt(v_scale), 128), near)
