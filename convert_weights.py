"""`ola convert` as a script of this repository: imports, exports and verifies PyTorch checkpoints."""

import functools

from ola_jax.cli import convert
from ola_jax.errors import run

main = functools.partial(convert.main, prog="convert_weights.py")

if __name__ == "__main__":
    run(main)
