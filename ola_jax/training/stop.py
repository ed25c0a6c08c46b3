"""Stopping between two steps: Ctrl-C, SIGTERM, preemption of a machine."""

import os
import signal
import sys
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp


class StopRequest:
    """A request to stop the run, by SIGINT or SIGTERM to any of its processes.

    A single process handles the signals itself; a second signal ends it at once. Several must stop after the
    same step: JAX forwards a SIGTERM that any of them receives, and they agree on a step that none has
    passed. SIGINT is turned into SIGTERM.
    """

    def __init__(self, report: Callable[[str], None] = print):
        self._signal, self._asked, self._report = 0, 0, report
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._note)
            signal.signal(signal.SIGINT, self._note)
        else:
            signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def reached(self) -> bool:
        """True if the run is to stop now; called by every process after every step, with one result."""
        self._asked += 1
        if jax.process_count() == 1:
            return bool(self._signal)
        return ocp.multihost.reached_preemption(self._asked)

    @property
    def status(self) -> int:
        """The exit status of a run that was stopped."""
        return 128 + (self._signal or signal.SIGTERM)

    def _note(self, number: int, _: object) -> None:
        if self._signal:
            sys.exit(128 + number)
        self._signal = number
        self._report("\nstopping after this step ...")
