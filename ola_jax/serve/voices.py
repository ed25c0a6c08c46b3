"""The voice of a server: which one, and what requests call it."""

import dataclasses

from ola_jax.serve.api_error import invalid
from ola_jax.speech.voice import DEFAULT_VOICE, AdjustableVoice, Voice


@dataclasses.dataclass(frozen=True)
class ServedVoice:
    """A voice and its name in requests."""

    name: str
    voice: Voice

    def at_speed(self, speed: float, param: str = "speed") -> Voice:
        """The voice, so many times as fast as usual. Raises ApiError for what it cannot do."""
        if speed == 1.0:
            return self.voice
        low, high = self.voice.speeds if isinstance(self.voice, AdjustableVoice) else (1.0, 1.0)
        if not isinstance(self.voice, AdjustableVoice) or not low <= speed <= high:
            raise invalid(f"this voice speaks at {low:g} to {high:g}, found {speed:g}", param)
        return self.voice.at_speed(speed)


def choose_voice(
    served: ServedVoice | None, name: str, param: str, asked_by: str | None = None
) -> ServedVoice:
    """The voice that a request names in the field `param`. Raises ApiError where there is none, or another.

    `asked_by` is the field that asks for speech, if it is not `param`.
    """
    if served is None:
        message = "this server has no voice; ola serve --voice hibari (extra speech) starts it with one"
        raise invalid(message, asked_by or param, "no_voice")
    if name not in (DEFAULT_VOICE, served.name):
        raise invalid(f"no such voice; this server has {served.name}", param, "unsupported_value")
    return served
