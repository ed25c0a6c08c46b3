"""The visible golden's checkpoint, imported once for all tests."""

import functools

from tests.convert.checkpoints import HF, SPEECH, Released, read_released


@functools.cache
def released(dtype: str = "float32") -> Released:
    """Configs and parameters of tests/goldens/visible."""
    return read_released(HF, **SPEECH, vision_heads=4, dtype=dtype)
