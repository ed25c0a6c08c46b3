"""Weights between released PyTorch checkpoints and ola_jax, both ways: `python convert_weights.py --help`."""

from ola_jax.cli.convert import main
from ola_jax.errors import run

if __name__ == "__main__":
    run(main)
