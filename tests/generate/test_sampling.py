import collections

import jax
import numpy as np
import pytest

from ola_jax.errors import OlaError
from ola_jax.generate.sampling import SamplingConfig, from_generation_config, next_token

LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.06, 0.04]], np.float32))
NONE = np.zeros(LOGITS.shape, bool)


def drawn(config: SamplingConfig, generated: np.ndarray = NONE) -> dict[int, float]:
    """Shares of the ids drawn."""
    keys = jax.random.split(jax.random.key(0), 2000)
    ids = jax.vmap(lambda key: next_token(LOGITS, generated, key, config)[0])(keys)
    return {i: n / 2000 for i, n in collections.Counter(np.asarray(ids).tolist()).items()}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert drawn(SamplingConfig()) == {0: 1.0}


def test_temperature_one_draws_by_probability() -> None:
    shares = drawn(SamplingConfig(temperature=1.0))
    np.testing.assert_allclose([shares[i] for i in range(5)], [0.4, 0.3, 0.2, 0.06, 0.04], atol=0.04)


def test_low_temperature_sharpens() -> None:
    assert drawn(SamplingConfig(temperature=0.1))[0] > 0.9


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(drawn(SamplingConfig(temperature=1.0, top_k=2))) == {0, 1}


def test_top_p_keeps_the_smallest_set_of_that_probability() -> None:
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.6))) == {0, 1}
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.75))) == {0, 1, 2}
    assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.01))) == {0}


def test_repetition_penalty_touches_generated_ids_only() -> None:
    generated = NONE.copy()
    generated[0, 0] = True
    assert drawn(SamplingConfig(repetition_penalty=2.0), generated) == {1: 1.0}
    assert drawn(SamplingConfig(repetition_penalty=2.0)) == {0: 1.0}


def test_padding_of_the_vocabulary_is_never_chosen() -> None:
    logits = LOGITS[:, ::-1]
    assert int(next_token(logits, NONE, jax.random.key(0), SamplingConfig(vocab_size=3))[0]) == 2


def test_generation_config_is_read_as_transformers_reads_it() -> None:
    values = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [7, 5]}
    expected = SamplingConfig(temperature=0.7, top_k=20, top_p=0.8, stop_ids=(7, 5), vocab_size=9)
    assert from_generation_config(values, 9) == expected
    greedy = from_generation_config({"temperature": 0.7, "eos_token_id": 3}, 9)
    assert (greedy.temperature, greedy.stop_ids) == (0.0, (3,))


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -2}, {"repetition_penalty": 0.0}]
)
def test_impossible_options_are_refused_by_name(bad: dict) -> None:
    with pytest.raises(OlaError, match=next(iter(bad))):
        SamplingConfig(**bad)
