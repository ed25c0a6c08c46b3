"""`convert_weights.py` in this process."""

import convert_weights
from ola_jax import errors


def run(*arguments: object) -> int:
    """Runs the command; returns its exit status."""
    try:
        errors.run(lambda: convert_weights.main([str(argument) for argument in arguments]))
    except SystemExit as stop:
        return stop.code
    return 0
