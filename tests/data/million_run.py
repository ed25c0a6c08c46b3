"""Checks, prepares and trains on many records; prints seconds, CPU seconds and MB.

`python -m tests.data.million_run FOLDER COUNT PROCESSES [--distinct]`: with --distinct no two records are the
same, and all of them are measured, by headers for training and by decoding for the check.
"""

import argparse
import json
import pathlib
import resource
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
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("count", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("--distinct", action="store_true")
    options = parser.parse_args()
    folder, count, processes = options.folder, options.count, options.processes
    figures = {}
    usage = lambda who: resource.getrusage(who)
    megabytes = lambda: usage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def cpu():
        both = [usage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in both)

    def measured(name, function):
        begin, before, spent = time.perf_counter(), megabytes(), cpu()
        result = function()
        figures[f"{name}, s"] = round(time.perf_counter() - begin, 2)
        figures[f"{name}, CPU s"] = round(cpu() - spent, 2)
        figures[f"{name}, MB"] = round(megabytes() - before)
        return result

    def first_batch(source, step=0, workers=0):
        iterator = iterate([source], max_bad_fraction=0.01, workers=workers)
        identity = iterator.identity
        iterator.set_state(iterator.get_state() | {"step": step})
        batch = next(iterator)
        iterator.close()
        return batch, identity

    processor = tiny_processor()
    source = Source(write_million(folder, count, distinct=options.distinct), str(folder))
    part = source
    if not options.distinct:
        part = Source(write_million(folder / "part", min(count, PERIOD)), str(folder / "part"))
    figures["checked"] = count if options.distinct else min(count, PERIOD)
    if options.distinct:
        _, by_headers = measured("start without index", lambda: first_batch(source, workers=processes))
    index = measured("check", lambda: check_source(part, processor, processes=processes)).index
    first_batch(part)  # numba has compiled, libraries are loaded
    if not options.distinct:
        save_index(
            source_index_path(source.records),
            repeat_index(index, count),
            settings=describe_settings(processor),
            records=digest_records(source.records),
        )
    batch, identity = measured("start", lambda: first_batch(source))
    if options.distinct:
        assert identity == by_headers
    later, _ = measured("resume", lambda: first_batch(source, step=count // 40))
    figures["records"] = sum(len(row) for each in (batch, later) for row in each.record_ids)
    figures["skipped"] = sum(later.skipped.values())
    done = measured("prepare", lambda: prepare_source(part, processor, folder / "set", processes=processes))
    figures["prepared"] = len(done.index)
    measured("start on shards", lambda: first_batch(Source(str(folder / "set"))))
    print(json.dumps(figures))
