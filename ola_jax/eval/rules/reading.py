"""The reading of an answer: what a rule found in it."""

import dataclasses
from collections.abc import Callable

from ola_jax.eval.items import Item


@dataclasses.dataclass(frozen=True)
class Reading:
    """A score from 0 to 1; `found` is None if the answer is unreadable, and the score then 0."""

    score: float
    found: str | None


Rule = Callable[[Item, str], Reading]
UNREADABLE = Reading(0.0, None)


def of_letter(item: Item, letter: str | None) -> Reading:
    """The reading of a multiple-choice answer."""
    return UNREADABLE if letter is None else Reading(float(letter in item.answers), letter)
