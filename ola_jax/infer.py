"""Answers from the command line: `python -m ola_jax.infer --checkpoint DIR --image F --text "..."`."""

import tyro

from ola_jax.cli.ask import Arguments, main
from ola_jax.errors import run

if __name__ == "__main__":
    run(lambda: main(tyro.cli(Arguments)))
