"""One request to /v1/chat/completions, from its body to the last byte of its answer."""

import asyncio
import base64
import contextlib
import logging
import time
import uuid
from collections.abc import Iterator

from ola_jax.generate.requests import Completion, Piece
from ola_jax.serve.admission import Ticket
from ola_jax.serve.api_error import ApiError, internal
from ola_jax.serve.audio_files import encode_audio
from ola_jax.serve.chat_request import ChatRequest, read_chat_request
from ola_jax.serve.client_reply import ClientReply, Connection
from ola_jax.serve.fields import parse_json
from ola_jax.serve.replies import DONE, PING, AnswerSpeech, ReplyHead
from ola_jax.serve.service import AnswerEvent
from ola_jax.serve.speaking import AudioPart, SpeechEnd, SpokenEvent, SpokenText
from ola_jax.serve.speech_request import AnswerAudio
from ola_jax.serve.voices import ServedVoice, choose_voice

Events = asyncio.Queue[AnswerEvent]
LOG = logging.getLogger(__name__)


class ChatReply(ClientReply[ChatRequest]):
    """An answer, streamed or whole, spoken or not."""

    def _parse(self, body: bytes) -> ChatRequest:
        request = read_chat_request(parse_json(body), self._service.config.model_name, self._limits)
        if request.audio is not None:
            self._voice(request.audio)
        return request

    async def _work(self, request: ChatRequest, ticket: Ticket, out: Connection) -> None:
        service = self._service
        async with service.admission.turn():
            prepared = await service.prepare(request, ticket)
            before = time.perf_counter() - self._begin
            key = self._request.scope.get("ola_key", "")
            async with service.answer(request, prepared.sample, key) as events:
                now = int(time.time())
                head = ReplyHead(
                    f"chatcmpl-{uuid.uuid4().hex}", now, service.config.model_name, request.include_usage
                )
                with self._speech(request, events) as speech:
                    if request.stream:
                        await self._stream(head, events, out, before, speech)
                    else:
                        await self._whole(head, events, out, before, request, speech)

    def _voice(self, audio: AnswerAudio) -> ServedVoice:
        return choose_voice(self._service.voice, audio.voice, "audio.voice", asked_by="modalities")

    @contextlib.contextmanager
    def _speech(self, request: ChatRequest, events: Events) -> Iterator[SpokenText | None]:
        """The speaker of the answer, if one is asked for; its events join those of the engine."""
        if request.audio is None:
            yield None
            return
        loop = asyncio.get_running_loop()

        def receive(event: SpokenEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        voice = self._voice(request.audio).voice
        speech = SpokenText(voice, receive, self._limits.speech_seconds)
        try:
            yield speech
        finally:
            speech.interrupt()

    async def _whole(
        self,
        head: ReplyHead,
        events: Events,
        out: Connection,
        before: float,
        request: ChatRequest,
        speech: SpokenText | None,
    ) -> None:
        pcm, end = bytearray(), None
        while not isinstance(event := await events.get(), Completion):
            if isinstance(event, AudioPart):
                pcm += event.pcm
            elif isinstance(event, Piece) and speech:
                speech.write(event.text)
        completion = event
        self._finish(completion, before, speech)
        if error := _error(completion):
            raise error
        spoken = None
        if speech and request.audio:
            while not isinstance(end := await events.get(), SpeechEnd):
                if isinstance(end, AudioPart):
                    pcm += end.pcm
            self._service.metrics.spoken(end)
            if pcm:
                self._service.metrics.first_audio(time.perf_counter() - self._begin)
            file = await asyncio.to_thread(encode_audio, bytes(pcm), request.audio.format)
            spoken = AnswerSpeech(file, end.skipped)
        await out.start("application/json")
        await out.send(head.whole(completion, spoken), last=True)

    async def _stream(
        self, head: ReplyHead, events: Events, out: Connection, before: float, speech: SpokenText | None
    ) -> None:
        await out.start("text/event-stream")
        await out.send(head.first(spoken=speech is not None))
        completion, heard = None, False
        while True:
            event = await self._next(events, out)
            if isinstance(event, Piece) and event.text:
                if speech:
                    speech.write(event.text)
                await out.send(head.text(event.text, spoken=speech is not None))
            elif isinstance(event, AudioPart):
                if not heard:
                    heard = True
                    self._service.metrics.first_audio(time.perf_counter() - self._begin)
                await out.send(head.delta({"audio": {"data": base64.b64encode(event.pcm).decode()}}))
            elif isinstance(event, Completion):
                completion = event
                self._finish(completion, before, speech)
                if error := _error(completion):
                    await out.send(b"data: " + error.encoded() + b"\n\n")
                    break
            if isinstance(event, SpeechEnd):
                self._service.metrics.spoken(event)
                await out.send(head.spoken(event.skipped))
            if completion and (speech is None or isinstance(event, SpeechEnd)):
                await out.send(head.delta({}, completion.finish_reason))
                if head.include_usage:
                    await out.send(head.usage(completion))
                break
        await out.send(DONE, last=True)

    def _finish(self, completion: Completion, before: float, speech: SpokenText | None) -> None:
        self._service.metrics.finished(completion, before)
        if speech:
            speech.finish()

    async def _next(self, events: Events, out: Connection) -> AnswerEvent:
        """The next event; meanwhile a comment now and then, so that nothing on the way gives up."""
        while True:
            try:
                async with asyncio.timeout(self._service.config.ping_seconds):
                    return await events.get()
            except TimeoutError:
                await out.send(PING)


def _error(completion: Completion) -> ApiError | None:
    if completion.finish_reason == "error":
        LOG.error("a request failed: %s", completion.error)
        return internal()
    if completion.finish_reason == "cancelled":
        return ApiError(503, "the server is shutting down", code="shutting_down")
    return None
