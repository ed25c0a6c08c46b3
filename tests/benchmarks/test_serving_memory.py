import pytest

from benchmarks import serving_memory
from ola_jax.config import OlaConfig
from tests import tiny

GIB = 2**30


def test_the_cache_of_ola_7b_is_that_of_its_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """28 layers of 4 key heads, 128 wide, keys and values, two bytes each."""
    cache, _ = serving_memory.state(OlaConfig(dtype="bfloat16"), "bfloat16", 8, 4096)
    assert cache == pytest.approx(8 * 4096 * 28 * 4 * 128 * 2 * 2, rel=1e-3)
    serving_memory.main(serving_memory.Args(slots=(8,), lengths=(4096,)))
    assert "1.75 + 0.05" in capsys.readouterr().out


def test_weights_are_counted_in_their_dtype() -> None:
    single, half = (serving_memory.weights(tiny.CONFIG, dtype) for dtype in ("float32", "bfloat16"))
    assert single == 2 * half > 0
