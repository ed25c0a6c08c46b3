"""Checks, prepares and trains on many records; prints seconds and MB.

`python -m tests.data.million_run FOLDER COUNT PREPARED PROCESSES`
"""

import json
import pathlib
import resource
import sys
import time

from ola_jax.data.checking import check_source
from ola_jax.data.prepare import prepare_source
from ola_jax.data.sources import Source
from tests.data.batches import iterate
from tests.data.made_up import tiny_processor
from tests.data.million import write_million

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    count, prepared, processes = map(int, sys.argv[2:])
    figures = {}
    megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def measured(name, function):
        begin, before = time.perf_counter(), megabytes()
        result = function()
        figures[f"{name}, s"] = round(time.perf_counter() - begin, 2)
        figures[f"{name}, MB"] = round(megabytes() - before)
        return result

    path = write_million(folder, count)
    source, processor = Source(path, str(folder)), tiny_processor()
    first_small = Source(write_million(folder / "small", prepared), str(folder / "small"))
    next(iterate([first_small], max_bad_fraction=0.01))  # numba has compiled, libraries are loaded
    checked = measured("check", lambda: check_source(source, processor, processes=processes))
    figures["bad"] = len(checked.index.failures)
    iterator = measured("start", lambda: iterate([source], max_bad_fraction=0.01))
    batch = measured("first batch", lambda: next(iterator))
    state = iterator.get_state()
    state["step"] = count // 40
    resumed = measured("resume", lambda: iterate([source], max_bad_fraction=0.01))
    resumed.set_state(state)
    later = measured("batch after resuming", lambda: next(resumed))
    figures["records"] = len(batch.record_ids[0]) + len(later.record_ids[0])
    done = measured(
        "prepare", lambda: prepare_source(first_small, processor, folder / "set", processes=processes)
    )
    figures["prepared"] = len(done.index)
    measured("start on shards", lambda: next(iterate([Source(str(folder / "set"))])))
    print(json.dumps(figures))
