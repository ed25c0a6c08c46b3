"""One spoken answer: a voice, a stream of speech, and where its audio goes."""

import sys
from collections.abc import Sequence

from ola_jax.speech.outputs import Player, WavFile
from ola_jax.speech.pipeline import (
    PieceSkipped,
    SpeechAudio,
    SpeechConfig,
    SpeechEvent,
    SpeechReport,
    SpeechStream,
)
from ola_jax.speech.voice import Voice


class Speaker:
    """Speaks a text to all of its outputs; what is not spoken is reported on the standard error.

    The voice and the outputs are closed at the end.
    """

    def __init__(self, voice: Voice, outputs: Sequence[WavFile | Player], config: SpeechConfig | None = None):
        self._voice, self._outputs = voice, tuple(outputs)
        self.stream = SpeechStream(voice, self._receive, config or SpeechConfig())

    def finish(self) -> SpeechReport:
        """Wait until the text, which is complete, has been spoken and its outputs have taken it."""
        self.stream.finish()
        try:
            report = self.stream.wait()
        except BaseException:
            self.discard()
            raise
        for output in self._outputs:
            output.close()
        self._voice.close()
        return report

    def discard(self) -> None:
        """Stop at once, and leave no file."""
        self.stream.interrupt()
        for output in self._outputs:
            output.discard()
        self._voice.close()

    def _receive(self, event: SpeechEvent) -> None:
        if isinstance(event, SpeechAudio):
            for output in self._outputs:
                output.write(event.samples)
        elif isinstance(event, PieceSkipped) and event.reason != "nothing to say":
            print(
                f"not fully spoken: {event.piece.text.strip()[:60]!r} ({event.detail or event.reason})",
                file=sys.stderr,
            )
