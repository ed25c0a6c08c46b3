"""`python -m ola_jax.infer --checkpoint DIR --image F --text "..."`: the same as `ola ask`."""

import tyro

from ola_jax.cli.ask import Arguments, ask
from ola_jax.errors import run

main = ask

if __name__ == "__main__":
    run(lambda: main(tyro.cli(Arguments)))
