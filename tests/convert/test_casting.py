import pathlib

import ml_dtypes
import numpy as np
import pytest

from ola_jax.convert import casting
from ola_jax.convert.casting import cast, overflowed
from ola_jax.errors import OlaError

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("value", "before", "after", "expected"),
    [
        (3.3e38, np.float32, BF16, False),
        (3.4e38, np.float32, BF16, True),
        (-3.4e38, np.float32, BF16, True),
        (np.inf, np.float32, BF16, False),  # was infinite before
        (np.nan, np.float32, BF16, False),
        (65519, np.float32, np.float16, False),
        (65520, np.float32, np.float16, True),
        (1e5, BF16, np.float16, True),
        (1e300, np.float64, np.float32, True),
        (6e4, np.float16, BF16, False),
        (1.0, np.float32, np.float32, False),
    ],
)
def test_only_finite_values_overflow(
    value: float, before: type, after: type, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(casting, "BLOCK", 5)
    values = np.ones((4, 6), before)
    values[2, 3] = value
    values[0, 0] = np.inf
    with np.errstate(over="ignore"):
        for a in (values, values.T, values[:, 3], values[2, 3:4]):
            assert overflowed(a, a.astype(after)) == expected
            assert overflowed(a, np.asfortranarray(a.astype(after))) == expected
    file = pathlib.Path("model.safetensors")
    if expected:
        with pytest.raises(OlaError, match=r"model\.safetensors: norm has values beyond the range of"):
            cast(values, after, key="norm", file=file)
    else:
        assert cast(values, after, key="norm", file=file).dtype == after


def test_scalars_can_overflow_too() -> None:
    value = np.full((), 1e5, np.float32)
    with np.errstate(over="ignore"):
        assert overflowed(value, value.astype(np.float16).reshape(()))
