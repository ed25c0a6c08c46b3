"""How much of the prompts is read between two steps of the running answers."""

import collections
import statistics
from typing import Literal

Call = Literal["piece", "answers"]
MOST_PIECES = 16  # of prompts in one turn
REMEMBERED = 9  # calls of each kind whose time counts: compilation, or another program's work, is an outlier


class Pace:
    """Measures the calls of the device, and shares its time between prompts and answers."""

    def __init__(self) -> None:
        recent = lambda: collections.deque[float](maxlen=REMEMBERED)
        self._seconds: dict[Call, collections.deque[float]] = {"piece": recent(), "answers": recent()}
        self._last = 0.0  # when the device was last seen to finish a call

    def finish(self, call: Call, asked: float, now: float) -> None:
        """Note that a call, which was asked for at a certain time, is finished."""
        self._seconds[call].append(now - max(asked, self._last))
        self._last = now

    def share(self, calls: int) -> float:
        """The seconds that prompts may take between so many calls for answers: as long as these take.

        So the gap between the tokens of an answer about doubles, at most, while prompts come in.
        """
        return calls * self._typical("answers")

    def pieces(self, calls: int) -> int:
        """Pieces of prompts that take no longer than so many calls for answers; at least one."""
        return max(1, min(int(self.share(calls) / max(self._typical("piece"), 1e-6)), MOST_PIECES))

    def _typical(self, call: Call) -> float:
        return statistics.median(self._seconds[call]) if self._seconds[call] else 0.0
