"""Stopping between two steps: Ctrl-C, SIGTERM, preemption of a machine."""

import os
import signal
import sys
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp


class StopRequest:
    """Whether somebody asked the run to stop: by SIGINT or SIGTERM, to whichever process.

    One process takes the signals itself; a second one ends it at once. Several must stop after the same step:
    JAX passes on a SIGTERM that any of them gets, and they agree on a step that none has passed. SIGINT is
    turned into SIGTERM.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self._signal, self._asked, self._say = 0, 0, say
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._note)
            signal.signal(signal.SIGINT, self._note)
        else:
            signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def reached(self) -> bool:
        """Whether to stop now; asked by every process, once after every step, with the same answer."""
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
        self._say("\nstopping after this step ...")
