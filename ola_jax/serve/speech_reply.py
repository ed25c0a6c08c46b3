"""One request to /v1/audio/speech."""

import asyncio
import base64
import contextlib
import time

from ola_jax.serve.admission import Ticket
from ola_jax.serve.api_error import ApiError, invalid
from ola_jax.serve.audio_files import MEDIA_TYPES, encode_audio
from ola_jax.serve.client_reply import ClientReply, Connection
from ola_jax.serve.fields import parse_json
from ola_jax.serve.replies import event as encode_event
from ola_jax.serve.speaking import PART_BYTES, AudioPart, SpeechEnd, SpokenEvent, SpokenText
from ola_jax.serve.speech_request import SpeechRequest, read_speech_request
from ola_jax.serve.voices import choose_voice

FILE_PART_BYTES = 4096 * PART_BYTES  # of a file in one event


class SpeechReply(ClientReply[SpeechRequest]):
    """The audio of a text: PCM as it is synthesized, other formats as a complete file."""

    def _parse(self, body: bytes) -> SpeechRequest:
        request = read_speech_request(parse_json(body), self._service.config.model_name)
        choose_voice(self._service.voice, request.voice, "voice").at_speed(request.speed)
        return request

    async def _work(self, request: SpeechRequest, ticket: Ticket, out: Connection) -> None:
        voice = choose_voice(self._service.voice, request.voice, "voice").at_speed(request.speed)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[SpokenEvent]()

        def receive(event: SpokenEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        async with self._service.admission.turn():
            speech = SpokenText(voice, receive, self._limits.speech_seconds)
            try:
                speech.write(request.text)
                speech.finish()
                await self._send(request, events, out)
            finally:
                speech.interrupt()

    async def _send(
        self, request: SpeechRequest, events: "asyncio.Queue[SpokenEvent]", out: Connection
    ) -> None:
        event = await events.get()
        if isinstance(event, SpeechEnd):  # without any audio
            self._service.metrics.spoken(event)
            raise _nothing(event)
        self._service.metrics.first_audio(time.perf_counter() - self._begin)
        events_wanted, pcm = request.stream_format == "sse", bytearray()
        streamed = request.format == "pcm"
        if streamed:
            await out.start("text/event-stream" if events_wanted else MEDIA_TYPES["pcm"])
        while isinstance(event, AudioPart):
            if streamed:
                await out.send(_delta(event.pcm) if events_wanted else event.pcm)
            else:
                pcm += event.pcm
            event = await events.get()
        self._service.metrics.spoken(event)
        if not streamed:
            file = await asyncio.to_thread(encode_audio, bytes(pcm), request.format)
            await out.start("text/event-stream" if events_wanted else MEDIA_TYPES[request.format])
            for start in range(0, len(file), FILE_PART_BYTES):
                part = file[start : start + FILE_PART_BYTES]
                await out.send(_delta(part) if events_wanted else part)
        await out.send(_done(event) if events_wanted else b"", last=True)


def _delta(data: bytes) -> bytes:
    return encode_event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})


def _done(end: SpeechEnd) -> bytes:
    skipped = [{"text": piece.text, "reason": piece.reason} for piece in end.skipped]
    return encode_event({"type": "speech.audio.done", "skipped": skipped})


def _nothing(end: SpeechEnd) -> ApiError:
    """The error of a text of which nothing was spoken."""
    reasons = sorted({piece.reason for piece in end.skipped})
    if "voice failed" in reasons:
        return ApiError(503, "the voice failed to speak this text", code="voice_failed")
    return invalid(f"nothing of it can be spoken: {'; '.join(reasons)}", "input", "not_speakable")
