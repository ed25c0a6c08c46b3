"""Messages as the questions and answers of one record: how a chat maps onto the model's prompt."""

import dataclasses

from tokenizers import Tokenizer

from ola_jax.data.chat import AUDIO, IMAGE
from ola_jax.errors import quote
from ola_jax.serve.api_error import invalid
from ola_jax.serve.messages import MediaPart, Message


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn: the user's message, and the assistant's answer, if there is one."""

    text: str
    images: tuple[MediaPart, ...]
    video: MediaPart | None
    audio: MediaPart | None
    answer: str | None = None


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A conversation that the assistant continues; `system` None: the checkpoint's own system prompt."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """All media in order."""
        return tuple(
            part for turn in self.turns for part in (*turn.images, turn.video, turn.audio) if part is not None
        )

    @property
    def has_audio(self) -> bool:
        """True if a message brings audio, which takes the place of a video's own sound track."""
        return any(turn.audio for turn in self.turns)


def read_prompt(messages: tuple[Message, ...], tokenizer: Tokenizer) -> Prompt:
    """The prompt that the messages are. Raises ApiError for an order or contents that it cannot express.

    One system message may come first. Messages of the same role that follow each other are one. In a turn the
    media come first, as the model has learned it.
    """
    system, rest = None, messages
    if messages[0].role == "system":
        system, rest = messages[0].text, messages[1:]
    for message in rest:
        if message.role == "system":
            raise invalid("a system message is the first one, and there is one at most", message.where)
    merged = _merge(rest)
    if not merged or merged[0].role != "user":
        raise invalid("the first message after the system's must be of the user", "messages")
    if merged[-1].role != "user":
        raise invalid("the last message must be of the user", merged[-1].where)
    _check_texts(messages, tokenizer)
    turns = []
    for number, message in enumerate(merged):
        if message.role == "user":
            answer = merged[number + 1].text if number + 1 < len(merged) else None
            turns.append(_turn(message, answer))
    return Prompt(system, tuple(turns))


def _merge(messages: tuple[Message, ...]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            before = merged.pop()
            both = "\n".join(filter(None, (before.text, message.text)))
            message = dataclasses.replace(message, text=both, media=before.media + message.media)
        merged.append(message)
    return merged


def _turn(message: Message, answer: str | None) -> Turn:
    images = tuple(part for part in message.media if part.kind == "image")
    video = next((part for part in message.media if part.kind == "video"), None)
    audio = next((part for part in message.media if part.kind == "audio"), None)
    if not message.text.strip() and not message.media:
        raise invalid("the message is empty: expected text, an image, audio or a video", message.where)
    if images and audio and message.text:
        raise invalid(
            "audio beside images is the question itself; leave out the text, or the audio", audio.where
        )
    return Turn(message.text, images, video, audio, answer)


def _check_texts(messages: tuple[Message, ...], tokenizer: Tokenizer) -> None:
    """Texts must not contain what stands for media or for the ends of turns: it would not be read as text."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    marks = (IMAGE, AUDIO) if any(message.media for message in messages) else ()
    for message in messages:
        if message.role == "assistant" and not message.text.strip():
            raise invalid("the message is empty", message.where)
        for token in special:
            if token in message.text:
                raise invalid(f"{quote(token)} in the text is a control token of the model", message.where)
        for mark in marks:
            if mark in message.text:
                raise invalid(f"{quote(mark)} in the text stands for media in this model", message.where)
