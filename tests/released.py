"""The visible golden's checkpoint, imported once for all tests."""

import functools

from ola_jax.convert.importer import Released, read_released
from tests import golden


@functools.cache
def released(dtype: str = "float32") -> Released:
    """Configs and parameters of tests/goldens/visible."""
    root = golden.VISIBLE
    return read_released(root / "hf", root / "whisper.pt", root / "beats.pt", vision_heads=4, dtype=dtype)
