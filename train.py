"""Trains Ola, stage after stage: `ola train` as a script of this repository."""

import functools

from ola_jax.cli import train
from ola_jax.errors import run

main = functools.partial(train.main, prog="train.py")

if __name__ == "__main__":
    run(main)
