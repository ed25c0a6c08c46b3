"""The report of a step, from made-up figures."""

import dataclasses

import pytest

from ola_jax import hardware
from ola_jax.aot.hlo import Collective
from ola_jax.aot.report import Report

CHIP = hardware.CHIPS["TPU v5 lite"]


REPORT = Report(
    stage="tune",
    topology="v5e:1x1",
    mesh={"data": 1, "fsdp": 4},
    rows=4,
    tokens=1000,
    remat="full",
    seconds=2.0,
    has_code=True,
    arguments=3e9,
    temporaries=4e9,
    limit=CHIP.memory,
    host=0.0,
    flops={"llm": 0.6 * CHIP.flops, "vision": 0.2 * CHIP.flops},
    recomputed=0.2 * CHIP.flops,
    peak=CHIP,
    traffic=0.5 * CHIP.memory_bandwidth,
    collectives=(Collective("all-gather", 3, 0.25 * CHIP.link_bandwidth, 2),),
    kernels={"splash": 2},
)


def test_the_slower_of_products_and_memory_bounds_the_step() -> None:
    of_flops, of_memory = REPORT, dataclasses.replace(REPORT, traffic=2 * CHIP.memory_bandwidth)
    assert (of_flops.step_seconds, of_memory.step_seconds) == pytest.approx((1.0, 2.0))
    assert (of_flops.mfu, of_memory.mfu) == pytest.approx((0.8, 0.4))  # recomputation is not useful work
    assert of_flops.tokens_per_second == pytest.approx(1000)
    assert of_flops.link_seconds == pytest.approx(0.25)


def test_a_step_fits_if_state_batch_and_temporaries_do() -> None:
    assert REPORT.fits
    assert not dataclasses.replace(REPORT, temporaries=CHIP.memory - 2e9).fits


def test_it_tells_of_what_it_counts_too_low_and_of_state_on_the_host() -> None:
    plain, other = str(REPORT), str(dataclasses.replace(REPORT, open_loops=5, host=7e9))
    assert "all-gather: 3, 100.00 GB, 2 of them asynchronous" in plain
    assert "fsdp=4" in plain
    assert "loops" not in plain
    assert "5 loops have as many iterations as the data needs" in other
    assert "in its host 7.00 GB" in other
