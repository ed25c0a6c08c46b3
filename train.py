"""Trains Ola, stage after stage: `python train.py --config=configs/digits_omni.py`."""

from ola_jax.errors import run
from ola_jax.run.loop import main

if __name__ == "__main__":
    run(main)
