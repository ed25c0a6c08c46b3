"""Prepares a source in a process of its own, to be killed: `python -m tests.data.prepare_run ...`."""

import sys

from ola_jax.data.prepare import prepare_source
from ola_jax.data.sources import Source
from tests.data.made_up import tiny_processor

if __name__ == "__main__":
    records, root, folder, processes = sys.argv[1:]
    prepare_source(
        Source(records, root), tiny_processor(), folder, shard_bytes=1500, processes=int(processes)
    )
