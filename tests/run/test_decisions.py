"""Decisions after a step, as a table."""

import dataclasses

import pytest

from ola_jax.run.decisions import Decision, Rhythm, decide

PLAIN = Rhythm(steps=10, save_every=4)
EVALUATED = dataclasses.replace(PLAIN, eval_every=3)
BEST = dataclasses.replace(EVALUATED, save_evaluated=True)

TABLE = [  # rhythm, step, stopped, failed: evaluate, save, end
    (PLAIN, 1, False, False, False, False, ""),
    (PLAIN, 4, False, False, False, True, ""),
    (PLAIN, 10, False, False, False, True, "last"),
    (EVALUATED, 1, False, False, False, False, ""),
    (EVALUATED, 3, False, False, True, False, ""),
    (EVALUATED, 4, False, False, False, True, ""),
    (EVALUATED, 10, False, False, True, True, "last"),
    (BEST, 3, False, False, True, True, ""),
    (BEST, 5, False, False, False, False, ""),
    # Stopped: saved whatever the step, and the user does not wait for an evaluation.
    (PLAIN, 1, True, False, False, True, "stopped"),
    (EVALUATED, 3, True, False, False, True, "stopped"),
    (BEST, 3, True, False, False, True, "stopped"),
    (EVALUATED, 10, True, False, False, True, "stopped"),
    # Failed: the same, and it is an error even where the user asked to stop.
    (PLAIN, 1, False, True, False, True, "failed"),
    (EVALUATED, 3, False, True, False, True, "failed"),
    (EVALUATED, 10, False, True, False, True, "failed"),
    (BEST, 3, True, True, False, True, "failed"),
]


@pytest.mark.parametrize("row", TABLE, ids=range(len(TABLE)))
def test_what_is_due_after_a_step(row: tuple) -> None:
    rhythm, step, stopped, failed, evaluate, save, end = row
    due = decide(rhythm, step, stopped=stopped, failed=failed)
    assert due == Decision(evaluate, save, end)
    assert due.needs_figures == (evaluate or save)


def test_every_step_that_ends_a_run_is_saved() -> None:
    for rhythm in (PLAIN, EVALUATED, BEST):
        for step in range(1, rhythm.steps + 1):
            for stopped in (False, True):
                for failed in (False, True):
                    due = decide(rhythm, step, stopped=stopped, failed=failed)
                    assert due.save or not due.end
                    assert bool(due.end) == (stopped or failed or step == rhythm.steps)
