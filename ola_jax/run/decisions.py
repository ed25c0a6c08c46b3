"""Decisions about what is due after a training step: pure functions, separate from the loop."""

import dataclasses
from typing import Literal

End = Literal["", "failed", "stopped", "last"]


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Intervals at which a stage is saved and evaluated; counted in steps, from 1."""

    steps: int  # of the stage
    save_every: int
    eval_every: int = 0  # 0: never
    save_evaluated: bool = False  # the best evaluations are kept, so each needs its checkpoint


@dataclasses.dataclass(frozen=True)
class Decision:
    """Actions after a step, in this order."""

    evaluate: bool
    save: bool
    end: End  # why no step follows; "": one does

    @property
    def needs_figures(self) -> bool:
        """True if the figures of this step must be known first: they may show that it failed."""
        return self.evaluate or self.save


def decide(rhythm: Rhythm, step: int, *, stopped: bool = False, failed: bool = False) -> Decision:
    """Decides what is due after `step`; the user may have asked to stop, or too many steps were bad.

    The last step is saved like others: if its model cannot be written, because the disk is full, nothing is
    lost. A run that ends early is saved and not evaluated.
    """
    last = step == rhythm.steps
    evaluation_due = bool(rhythm.eval_every) and (last or step % rhythm.eval_every == 0)
    save_due = step % rhythm.save_every == 0 or (evaluation_due and rhythm.save_evaluated)
    end: End = "failed" if failed else "stopped" if stopped else "last" if last else ""
    return Decision(
        evaluate=evaluation_due and not stopped and not failed, save=save_due or bool(end), end=end
    )
