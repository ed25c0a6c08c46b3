"""Prepares a source in a process of its own, to be killed: `python -m tests.data.prepare_run ...`."""

import os
import signal
import sys

from ola_jax.data.prepare import prepare_source
from ola_jax.data.shards import ShardWriter
from ola_jax.data.sources import Source
from tests.data.made_up import tiny_processor


def kill_after(records: int) -> None:
    """Lets this process kill itself when it has written so many records."""
    write, written = ShardWriter.write, 0

    def count(self: ShardWriter, data: bytes) -> None:
        nonlocal written
        write(self, data)
        written += 1
        if written == records:
            os.kill(os.getpid(), signal.SIGKILL)

    ShardWriter.write = count


if __name__ == "__main__":
    records, root, folder, processes, until = sys.argv[1:]
    if int(until):
        kill_after(int(until))
    prepare_source(
        Source(records, root), tiny_processor(), folder, shard_bytes=1500, processes=int(processes)
    )
