import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ola_jax.errors import OlaError
from ola_jax.run.same_plan import check_same_plan

IDENTITY = {"seed": 1, "sizes of records": ["a", "b"]}


def other_process(monkeypatch: pytest.MonkeyPatch, change: int) -> None:
    """Lets there be a second process, whose digest differs by `change`."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([x, x + np.uint8(change)]))


def test_one_process_has_nothing_to_compare() -> None:
    check_same_plan(IDENTITY)


def test_processes_with_the_same_plan_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    other_process(monkeypatch, 0)
    check_same_plan(IDENTITY)


def test_another_plan_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    other_process(monkeypatch, 1)
    with pytest.raises(OlaError, match=r"data: process 1 found other sizes .*ola data check"):
        check_same_plan(IDENTITY)
