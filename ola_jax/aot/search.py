"""Searching for the rows of a batch and the remat policy whose step fits and has the best bounds."""

import dataclasses
from collections.abc import Callable

from ola_jax import hardware, sharding
from ola_jax.aot import compile as compiling
from ola_jax.aot.report import Report
from ola_jax.errors import OlaError
from ola_jax.models.remat import POLICIES
from ola_jax.training.config import Stage, TrainConfig

GAIN = 1.01  # more rows must give this many times the tokens per second to be worth their memory
MARGIN = 1.05  # candidates expected to need more than this many times the memory are not tried


def search(
    config: TrainConfig, stage: Stage, topology: str, *, show: Callable[[str], None] = print
) -> Report:
    """Compiles the candidate with the most tokens per second at the bounds; `show` is called for each.

    Rows of each policy are doubled until they gain nothing or do not fit. Candidates are compiled without
    code. Those that cannot fit are left out: by state and batch alone, if fewer rows or a policy with less
    memory did not fit, or by the memory of the last two. Raises OlaError if none fits, or if the compiler
    fails for another reason.
    """
    devices = compiling.find_topology(topology).devices
    mesh = sharding.make_mesh(config.mesh, devices)
    limit = hardware.find_chip(devices[0].device_kind).memory
    least = mesh.shape["data"] * mesh.shape["fsdp"] * stage.microbatches
    resize = lambda rows: dataclasses.replace(stage, rows=rows)
    if (needed := compiling.measure_arguments(config, resize(least), topology)) > limit:
        raise OlaError(
            f"{stage.name} on {topology}: state and batch alone take {needed / 1e9:.1f} of "
            f"{limit / 1e9:.1f} GB of a device; split more (mesh), or set optimizer.offload=True"
        )
    best: tuple[Report, TrainConfig] | None = None
    too_many = None  # rows that did not fit with a policy that needs less memory
    for remat in POLICIES:
        candidate = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
        tried: list[Report] = []
        rows = least
        while (too_many is None or rows < too_many) and _may_fit(tried, limit):
            try:
                report = compiling.analyze_stage(candidate, resize(rows), topology)
            except compiling.DoesNotFitError as error:
                show(str(error))
                too_many = rows
                break
            show(f"{report.line()} (analyzed in {report.seconds:.0f} s)")
            if best is None or report.tokens_per_second > best[0].tokens_per_second:
                best = report, candidate
            if tried and report.tokens_per_second < GAIN * tried[-1].tokens_per_second:
                break
            tried.append(report)
            rows *= 2
    if best is None:
        raise OlaError(
            f"{stage.name} on {topology}: no batch fits; split more (mesh) or shorten the rows (budget)"
        )
    report, candidate = best
    show(f"compiling the fastest: {report.line()}")
    return compiling.compile_stage(candidate, resize(report.rows), topology)


def _may_fit(tried: list[Report], limit: float) -> bool:
    """True if twice the rows may fit, if memory grows as between the last two."""
    if len(tried) < 2:
        return True
    needs = [report.arguments + report.temporaries for report in tried[-2:]]
    return needs[1] + 2 * (needs[1] - needs[0]) <= MARGIN * limit
