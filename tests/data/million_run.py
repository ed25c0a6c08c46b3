"""Checks, prepares and trains on many records; prints seconds and MB.

`python -m tests.data.million_run FOLDER COUNT PROCESSES`
"""

import json
import pathlib
import resource
import sys
import time

from ola_jax.data.checking import check_source
from ola_jax.data.identity import digest_records, source_index_path
from ola_jax.data.index import save_index
from ola_jax.data.measure import describe_settings
from ola_jax.data.prepare import prepare_source
from ola_jax.data.sources import Source
from tests.data.batches import iterate
from tests.data.made_up import tiny_processor
from tests.data.million import PERIOD, repeat_index, write_million

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    count, processes = map(int, sys.argv[2:])
    figures = {}
    megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def measured(name, function):
        begin, before = time.perf_counter(), megabytes()
        result = function()
        figures[f"{name}, s"] = round(time.perf_counter() - begin, 2)
        figures[f"{name}, MB"] = round(megabytes() - before)
        return result

    def first_batch(source, step=0):
        iterator = iterate([source], max_bad_fraction=0.01)
        iterator.set_state(iterator.get_state() | {"step": step})
        batch = next(iterator)
        iterator.close()
        return batch

    part = Source(write_million(folder / "part", min(count, PERIOD)), str(folder / "part"))
    source, processor = Source(write_million(folder, count), str(folder)), tiny_processor()
    figures["checked"] = min(count, PERIOD)
    index = measured("check", lambda: check_source(part, processor, processes=processes)).index
    first_batch(part)  # numba has compiled, libraries are loaded
    save_index(
        source_index_path(source.records),
        repeat_index(index, count),
        settings=describe_settings(processor),
        records=digest_records(source.records),
    )
    batch = measured("start", lambda: first_batch(source))
    later = measured("resume", lambda: first_batch(source, step=count // 40))
    figures["records"] = sum(len(row) for each in (batch, later) for row in each.record_ids)
    figures["skipped"] = sum(later.skipped.values())
    done = measured("prepare", lambda: prepare_source(part, processor, folder / "set", processes=processes))
    figures["prepared"] = len(done.index)
    measured("start on shards", lambda: first_batch(Source(str(folder / "set"))))
    print(json.dumps(figures))
