"""The messages of a chat request, as OpenAI's clients write them."""

import dataclasses
from typing import Any, Literal

from ola_jax.errors import quote
from ola_jax.serve.api_error import ApiError, invalid
from ola_jax.serve.fields import object_of, text
from ola_jax.serve.limits import Limits

Role = Literal["system", "user", "assistant"]
Kind = Literal["image", "audio", "video"]
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MEDIA: dict[str, Kind] = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
}
MESSAGE_KEYS = ("role", "content")
FORMAT_CHARACTERS = 32  # of the name of an audio format
DETAILS = ("auto", "low", "high")


@dataclasses.dataclass(frozen=True)
class MediaPart:
    """An image, audio or a video in a message; `source` is a URL, or base64 alone where `encoded`."""

    kind: Kind
    source: str
    where: str  # such as "messages[0].content[1]"
    encoded: bool = False


@dataclasses.dataclass(frozen=True)
class Message:
    """Who says it, its texts joined by line ends, and its media in order."""

    role: Role
    text: str
    media: tuple[MediaPart, ...]
    where: str


def read_messages(value: Any, limits: Limits) -> tuple[Message, ...]:
    """The checked messages. Raises ApiError for what is no message, or more than the limits allow."""
    if not isinstance(value, list) or not value:
        raise invalid("expected a list of at least one message", "messages")
    if len(value) > limits.messages:
        raise invalid(f"{len(value)} of them, at most {limits.messages} are taken", "messages")
    messages = tuple(_message(item, f"messages[{i}]", limits) for i, item in enumerate(value))
    characters = sum(len(message.text) for message in messages)
    if characters > limits.text_characters:
        reason = f"{characters} characters of text, at most {limits.text_characters} are taken"
        raise invalid(reason, "messages")
    media = [part for message in messages for part in message.media]
    for kind, most, why in (
        ("image", limits.images, "the limit of this server"),
        ("audio", 1, "a prompt of this model has room for one"),
        ("video", 1, "a prompt of this model has room for one"),
    ):
        parts = [part for part in media if part.kind == kind]
        if len(parts) > most:
            where = parts[most].where
            raise invalid(f"number {len(parts)} of {kind}, at most {most} in a request ({why})", where)
    if {"image", "video"} <= {part.kind for part in media}:
        where = next(part.where for part in media if part.kind == "video")
        raise invalid("a prompt of this model has images or a video, not both", where)
    return messages


def _message(value: Any, where: str, limits: Limits) -> Message:
    if not isinstance(value, dict):
        raise invalid(f"expected an object, found {quote(value)}", where)
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{quote(role)} is not supported; expected {', '.join(ROLES)}", f"{where}.role")
    known = object_of(value, where, MESSAGE_KEYS)
    content = known.get("content")
    if isinstance(content, str):
        return Message(ROLES[role], text(content, f"{where}.content", limits.text_characters), (), where)
    if not isinstance(content, list) or not content:
        raise invalid(f"expected text or a list of parts, found {quote(content)}", f"{where}.content")
    texts, media = [], []
    for number, item in enumerate(content):
        part = _part(item, f"{where}.content[{number}]", limits)
        if isinstance(part, str):
            texts.append(part)
        elif ROLES[role] != "user":
            raise invalid(f"only messages of the user have media, not those of {role}", part.where)
        else:
            media.append(part)
    return Message(ROLES[role], "\n".join(filter(None, texts)), tuple(media), where)


def _part(value: Any, where: str, limits: Limits) -> str | MediaPart:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        found = object_of(value, where, ("type", "text"))
        return text(found.get("text"), f"{where}.text", limits.text_characters)
    if not isinstance(kind, str) or kind not in MEDIA:
        raise invalid(f"{quote(kind)} is not supported; expected text, {', '.join(MEDIA)}", f"{where}.type")
    inner = object_of(value, where, ("type", kind))[kind] if kind in value else None
    place = f"{where}.{kind}"
    if kind == "input_audio":
        given = object_of(inner, place, ("data", "format"))
        if given.get("format") is not None:  # the bytes say what it is
            text(given["format"], f"{place}.format", FORMAT_CHARACTERS)
        return MediaPart(
            MEDIA[kind], _source(given.get("data"), f"{place}.data", limits), where, encoded=True
        )
    if isinstance(inner, str):
        return MediaPart(MEDIA[kind], _source(inner, place, limits), where)
    given = object_of(inner, place, ("url", "detail") if kind == "image_url" else ("url",))
    if given.get("detail") not in (None, *DETAILS):
        raise invalid(f"expected {', '.join(DETAILS)}, found {quote(given['detail'])}", f"{place}.detail")
    return MediaPart(MEDIA[kind], _source(given.get("url"), f"{place}.url", limits), where)


def _source(value: Any, where: str, limits: Limits) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(f"expected a URL or base64, found {quote(value)}", where)
    if len(value) > 2 * limits.media_bytes + 1024:  # base64 has four characters for three bytes
        raise ApiError(413, f"{where}: more than {limits.media_bytes} bytes", param=where)
    return value
