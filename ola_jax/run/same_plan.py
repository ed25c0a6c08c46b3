"""A check before the first step of several processes: that all of them planned the same rows."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ola_jax.errors import OlaError


def check_same_plan(identity: dict[str, Any]) -> None:
    """Raises OlaError unless all processes have this identity of the data; every process must call it.

    Processes measure records for themselves where there is no index, and a file that one of them cannot read
    in time is missing in its plan only: batches would be made of two plans.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps(identity, sort_keys=True)
    mine = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    every = np.asarray(multihost_utils.process_allgather(mine))
    others = np.flatnonzero((every != every[0]).any(axis=1))
    if len(others):
        raise OlaError(
            f"data: process {others[0]} found other sizes of records, or other records, than process 0; run "
            "`ola data check` on the sources once, so that all processes read the same index"
        )
