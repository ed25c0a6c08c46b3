"""Many languages, by eSpeak NG: small and robotic. Under the GPL 3, so it is never a default."""

import ctypes
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from ola_jax.errors import OlaError, require
from ola_jax.speech.callable_voice import resampled
from ola_jax.speech.language import Script, main_script
from ola_jax.speech.voice import Samples, VoiceError

# Values of eSpeak's speak_lib.h.
SYNCHRONOUS, RATE_PARAMETER, BY_CHARACTER, UTF8 = 2, 1, 1, 1
LANGUAGES: Mapping[Script, str] = {
    "latin": "en-us",
    "chinese": "cmn",
    "japanese": "ja",
    "korean": "ko",
    "devanagari": "hi",
    "arabic": "ar",
    "cyrillic": "ru",
}
SPEEDS = (80, 450)  # words per minute

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()  # the library has one state in a process


class EspeakVoice:
    """Reads each text in the language of its script; `latin` names the language of Latin letters.

    Needs `pip install espeakng-loader`. Its audio is not the same bit for bit each time.
    """

    def __init__(self, *, latin: str = "en-us", words_per_minute: int = 170):
        if not SPEEDS[0] <= words_per_minute <= SPEEDS[1]:
            raise OlaError(f"words_per_minute is {words_per_minute}; expected {SPEEDS[0]} to {SPEEDS[1]}")
        require("espeak", "espeakng_loader")
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        with _lock:
            data = espeakng_loader.get_data_path().encode()
            self._rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise OlaError("eSpeak NG cannot be started; reinstall espeakng-loader")
        self._languages = {**LANGUAGES, "latin": latin}
        self._speed = words_per_minute
        self.name = "espeak"
        for language in self._languages.values():
            self._choose(language)

    @property
    def scripts(self) -> frozenset[Script]:
        """Those that it has a language for."""
        return frozenset(LANGUAGES)

    def speak(self, text: str) -> Iterator[Samples]:
        """The audio of the whole text, in one part after its resampling to 24 kHz."""
        parts: list[Samples] = []

        def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
            if samples and count:
                parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
            return 0

        callback, data = Callback(receive), text.encode() + b"\0"
        with _lock:
            self._choose(self._languages[main_script(text) or "latin"])
            self._library.espeak_SetParameter(RATE_PARAMETER, self._speed, 0)
            self._library.espeak_SetSynthCallback(callback)
            status = self._library.espeak_Synth(data, len(data), 0, BY_CHARACTER, 0, UTF8, None, None)
        if status:
            raise VoiceError(f"{self.name}: cannot speak this text (status {status})")
        yield from resampled(parts, self._rate)

    def close(self) -> None:
        """The library stays loaded; another voice may use it."""

    def _choose(self, language: str) -> None:
        if self._library.espeak_SetVoiceByName(language.encode()):
            raise OlaError(f"eSpeak NG has no language {language!r}; see `espeak-ng --voices`")
