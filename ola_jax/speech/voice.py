"""The protocol between the speech pipeline and whatever turns text into audio."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from ola_jax.errors import OlaError
from ola_jax.speech.language import Script
from ola_jax.typing import Float, HostArray

SPEECH_RATE = 24_000  # Hz, of all audio that is spoken
DEFAULT_VOICE = "default"  # names the voice that there is, whatever it is

Samples = Float[HostArray, "_"]  # mono, float32 in [-1, 1], at SPEECH_RATE


class VoiceError(OlaError):
    """A voice could not speak a text; the message says why."""


@runtime_checkable
class Voice(Protocol):
    """Speaks one text at a time."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def scripts(self) -> frozenset[Script] | None:
        """The scripts that it can read; None: not known, so everything is given to it."""

    def speak(self, text: str) -> Iterator[Samples]:
        """The audio of a text, part by part; closing the iterator cancels the rest. Raises VoiceError."""

    def close(self) -> None:
        """Release what the voice holds."""


@runtime_checkable
class AdjustableVoice(Voice, Protocol):
    """A voice that speaks slower or faster as well."""

    @property
    def speeds(self) -> tuple[float, float]:
        """The slowest and the fastest, 1 being as usual."""

    def at_speed(self, speed: float) -> "AdjustableVoice":
        """The same voice at another speed; it shares what this one holds."""
