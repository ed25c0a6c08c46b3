"""The wordings of the questions, written and spoken, and of the answers."""

import dataclasses

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class Topic:
    """A topic of questions about one kind of media."""

    share: float  # of the questions about this kind of media
    wordings: tuple[str, ...]


IMAGE = {
    "digit": Topic(0.55, ("Which digit is it?", "What digit do you see?", "Name the digit.")),
    "colour": Topic(0.18, ("What colour is it?", "Which colour is the digit?", "Name the colour.")),
    "parity": Topic(0.17, ("Is it even or odd?", "Is the digit even or odd?")),
    "account": Topic(0.1, ("Tell me about the picture.", "Say all that you see.")),
}
TWO_IMAGES = {
    "digits": Topic(0.3, ("Which two digits do you see?", "Name both digits.")),
    "colours": Topic(0.3, ("Which two colours do you see?", "Name both colours.")),
    "first": Topic(0.2, ("Which digit is in the first picture?",)),
    "second": Topic(0.2, ("Which digit is in the second picture?",)),
}
VIDEO = {
    "digits": Topic(0.3, ("Which two digits are shown?", "Name both digits in order.")),
    "first": Topic(0.35, ("Which digit is shown first?",)),
    "last": Topic(0.35, ("Which digit is shown last?",)),
}
AUDIO = {
    "digit": Topic(0.8, ("Which digit do you hear?", "What digit is spoken?", "Name the spoken digit.")),
    "parity": Topic(0.2, ("Is the spoken digit even or odd?",)),
}
VIDEO_AUDIO = {
    "first": Topic(0.2, ("Which digit is shown first, and which do you hear?",)),
    "last": Topic(0.2, ("Which digit is shown last, and which do you hear?",)),
    "seen": Topic(0.3, ("Which digit is shown first?",)),
    "heard": Topic(0.3, ("Which digit do you hear?",)),
}
CAPTION = "Describe the picture."
TRANSCRIBE = "Write down what is said."
# Spoken questions about an image. The speech pack of `render_speech.py` has them: a change needs a new pack.
SPOKEN = {
    "digit": ("What digit is it?", "Which digit do you see?"),
    "colour": ("What colour is it?", "Tell me the colour."),
    "parity": ("Is it even or odd?", "Even or odd?"),
}


def choose(topics: dict[str, Topic], rng: np.random.Generator) -> tuple[str, str]:
    """Chooses a topic at random by the shares, and one of its wordings."""
    name = str(rng.choice(list(topics), p=[topic.share for topic in topics.values()]))
    return name, str(rng.choice(topics[name].wordings))


def parity(number: int) -> str:
    """`even` or `odd`."""
    return "odd" if number % 2 else "even"


def both(first: int | str, second: int | str) -> str:
    """Two answers in order: `3 and 5`."""
    return f"{first} and {second}"
