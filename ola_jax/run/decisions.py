"""Decisions about what is due after a step of training: pure, apart from the loop that carries them out."""

import dataclasses
from typing import Literal

End = Literal["", "failed", "stopped", "last"]


@dataclasses.dataclass(frozen=True)
class Rhythm:
    """Intervals at which a stage is saved and evaluated; counted in steps, from 1."""

    steps: int  # of the whole stage
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


def decide(rhythm: Rhythm, step: int, stopped: bool = False, failed: bool = False) -> Decision:
    """Decide what is due after `step`, if the user asked to stop, or if there were too many bad steps.

    The last step is saved like others: where its model cannot be written, the disk being full, nothing is
    lost. A run that ends early is saved and not evaluated.
    """
    last = step == rhythm.steps
    evaluation_due = bool(rhythm.eval_every) and (last or step % rhythm.eval_every == 0)
    save_due = step % rhythm.save_every == 0 or (evaluation_due and rhythm.save_evaluated)
    end: End = "failed" if failed else "stopped" if stopped else "last" if last else ""
    return Decision(
        evaluate=evaluation_due and not stopped and not failed, save=save_due or bool(end), end=end
    )
