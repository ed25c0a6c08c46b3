"""The memory that XLA has assigned to a program, read from its dumped buffer assignment."""

import dataclasses
import re

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(?:, color (\d+))?, (.*)$", re.MULTILINE)
_MAIN, _HOST = "0", "5"  # XLA's numbers ("colors") of a TPU's main memory and of its host's


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes, as `memory_analysis` of a compiled program reports them."""

    arguments: float
    temporaries: float
    host: float  # of arguments in the memory of the device's host


def read_sizes(text: str) -> Sizes:
    """The sizes in a dumped buffer assignment."""
    arguments = temporaries = host = 0.0
    for size, color, kind in _ALLOCATION.findall(text):
        if "parameter" in kind and (color or _MAIN) == _MAIN:
            arguments += int(size)
        elif "parameter" in kind and color == _HOST:
            host += int(size)
        elif "preallocated-temp" in kind and (color or _MAIN) == _MAIN:
            temporaries += int(size)
    return Sizes(arguments, temporaries, host)
