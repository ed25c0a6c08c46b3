"""The voice that a command line names."""

import dataclasses
from typing import Literal

from ola_jax.errors import MissingLibraryError, OlaError
from ola_jax.speech.espeak_voice import EspeakVoice
from ola_jax.speech.hibari_voice import HibariVoice
from ola_jax.speech.http_voice import HttpVoice
from ola_jax.speech.process_voice import ProcessVoice
from ola_jax.speech.voice import DEFAULT_VOICE, Voice

VoiceKind = Literal["auto", "hibari", "espeak", "http", "process", "none"]


@dataclasses.dataclass(frozen=True)
class VoiceOptions:
    """Options of the commands that speak."""

    voice: VoiceKind = "auto"  # of spoken answers; auto: hibari (English) where it is installed
    voice_name: str | None = None  # of hibari's, a language of espeak, or one of the server at voice_url
    voice_url: str | None = None  # for --voice http: a server with /audio/speech, as http://localhost:8091/v1
    voice_model: str | None = None  # for --voice http: its model
    voice_command: tuple[str, ...] = ()  # for --voice process: what starts it, as /path/to/python speak.py


def load_voice(options: VoiceOptions) -> tuple[str, Voice] | None:
    """The name of the voice in requests and the voice, ready to speak; None for no voice.

    Raises OlaError for options that do not fit, a voice that does not start, or a library that is missing:
    with "auto" and no name, a missing hibari is no voice.
    """
    kind, name = options.voice, options.voice_name
    if kind != "http" and (options.voice_url is not None or options.voice_model is not None):
        raise OlaError("--voice-url and --voice-model belong to --voice http")
    if kind != "process" and options.voice_command:
        raise OlaError("--voice-command belongs to --voice process")
    match kind:
        case "none":
            return None
        case "http":
            if options.voice_url is None or options.voice_model is None:
                raise OlaError(
                    "--voice http needs --voice-model, and --voice-url such as http://localhost:8091/v1"
                )
            name = name or DEFAULT_VOICE
            return name, HttpVoice(options.voice_url, model=options.voice_model, voice=name)
        case "process":
            if not options.voice_command:
                raise OlaError("--voice process needs --voice-command, such as /path/to/python speak.py")
            name = name or DEFAULT_VOICE
            return name, ProcessVoice(options.voice_command, name=name)
        case "espeak":
            name = name or "en-us"
            return name, EspeakVoice(latin=name)
        case "hibari" | "auto":
            try:
                return name or "heart", HibariVoice(voice=name or "heart")
            except MissingLibraryError:
                if kind == "auto" and name is None:
                    return None
                raise
