"""Scripts of a text, which tell some languages apart."""

import collections
from typing import Literal

from ola_jax.speech.characters import is_letter

# "latin" is any language in Latin letters: a script does not tell English from German.
Script = Literal["latin", "chinese", "japanese", "korean", "devanagari", "arabic", "cyrillic", "other"]

_RANGES: tuple[tuple[int, int, Script], ...] = (
    (0x0041, 0x024F, "latin"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0600, 0x077F, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x1100, 0x11FF, "korean"),
    (0x1E00, 0x1EFF, "latin"),
    (0x3040, 0x30FF, "japanese"),
    (0x3400, 0x9FFF, "chinese"),
    (0xAC00, 0xD7AF, "korean"),
    (0xF900, 0xFAFF, "chinese"),
    (0x20000, 0x3FFFF, "chinese"),
)


def count_scripts(text: str) -> dict[Script, int]:
    """Letters of each script; kana make the Chinese characters beside them Japanese."""
    counts: collections.Counter[Script] = collections.Counter()
    for character in text:
        if is_letter(character):
            counts[_script(ord(character))] += 1
    if counts["japanese"]:
        counts["japanese"] += counts.pop("chinese", 0)
    return dict(counts)


def main_script(text: str) -> Script | None:
    """The script of most letters, each Chinese character counted as six; None without letters."""
    counts = count_scripts(text)
    dense = ("chinese", "japanese")
    weight = {script: count * (6 if script in dense else 1) for script, count in counts.items()}
    return max(weight, key=lambda script: weight[script], default=None)


def _script(code: int) -> Script:
    return next((script for first, last, script in _RANGES if first <= code <= last), "other")
